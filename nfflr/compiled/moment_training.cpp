// What a training step of the one-layer moment-tensor network needs of the bonds: the density moments, the
// map from the energy's gradient by them to forces and virial, and that linear map's transpose.
//
// Bonds hold no weight, so nothing else of them is differentiated (see nfflr/nn/moments.py). Given by the
// build: REAL, RADIAL; CHANNELS and HIDDEN only because the header asks for them.

#include <algorithm>
#include <vector>

#include "moment_bonds.h"

constexpr int MONOMIALS_P = 24;  // filled up to whole rows of eight

struct Batch {
  int64_t n_atoms, n_edges, n_structures;
  const int64_t* element;    // (N,) index among the model's
  const int64_t* structure;  // (N,)
  const int64_t* src;        // (E,)
  const int64_t* dst;        // (E,) ascending
  const real* vectors;       // (E, 3) Å
};

struct Basis {
  real* phi;        // (E, RADIAL_P)
  real* dphi;       // (E, RADIAL_P) 1/Å
  real* slope;      // (E,) of the repulsion
  double* energy;   // (N,) half the repulsion of each bond at its centre
  real* moments;    // (N, n_elements, MONOMIALS, RADIAL_P)
};

static inline row row_at(const real* p) { return *reinterpret_cast<const row*>(p); }
static inline real total(row x) {
  real sum = 0;
  for (int k = 0; k < 8; k++) sum += x[k];
  return sum;
}

// Their change d when u moves by t.
static inline void along(const real* u, const real* m, const real* t, real* d) {
  const real x = u[0], y = u[1], z = u[2], a = t[0], b = t[1], c = t[2];
  d[0] = 0, d[1] = a, d[2] = b, d[3] = c;
  d[4] = 2 * x * a, d[5] = x * b + y * a, d[6] = x * c + z * a, d[7] = 2 * y * b, d[8] = y * c + z * b, d[9] = 2 * z * c;
  d[10] = d[4] * x + m[4] * a, d[11] = d[4] * y + m[4] * b, d[12] = d[4] * z + m[4] * c;
  d[13] = d[5] * y + m[5] * b, d[14] = d[5] * z + m[5] * c, d[15] = d[6] * z + m[6] * c;
  d[16] = d[7] * y + m[7] * b, d[17] = d[7] * z + m[7] * c, d[18] = d[8] * z + m[8] * c, d[19] = d[9] * z + m[9] * c;
}

struct Bond {
  real u[3], r, inverse, mono[MONOMIALS_P];

  Bond(const Batch& b, int64_t e) {
    const real* v = b.vectors + 3 * e;
    r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), inverse = 1 / r;
    for (int k = 0; k < 3; k++) u[k] = v[k] * inverse;
    mono[0] = 1, monomials(u[0], u[1], u[2], mono);
    std::fill(mono + MONOMIALS, mono + MONOMIALS_P, real(0));
  }
};

// Radial functions, a register of bonds between the same two elements at a time.
static void radial_functions(const Model& m, const Batch& b, const Basis& out) {
  const int64_t n = m.n_elements;
  std::vector<int64_t> first(n * n + 1, 0), order(b.n_edges);
  auto pair = [&](int64_t e) { return b.element[b.dst[e]] * n + b.element[b.src[e]]; };
  for (int64_t e = 0; e < b.n_edges; e++) first[pair(e) + 1]++;
  for (int64_t p = 0; p < n * n; p++) first[p + 1] += first[p];
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  for (int64_t e = 0; e < b.n_edges; e++) order[next[pair(e)]++] = e;

  alignas(64) real data[Bonds::WEIGHTS * LANES], repulsion[LANES];
  const Bonds bonds{data, LANES, nullptr};
  const Radial radial(m);
  for (int64_t p = 0; p < n * n; p++) {
    const Pairs constants = spread(m.pairs[p]);
    for (int64_t k = first[p]; k < first[p + 1]; k += LANES) {
      const int count = int(std::min<int64_t>(LANES, first[p + 1] - k));
      for (int l = 0; l < LANES; l++) {
        const real* v = b.vectors + 3 * order[k + std::min(l, count - 1)];
        const real r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
        bonds.column(Bonds::R)[l] = r, bonds.column(Bonds::INVERSE)[l] = 1 / r;
      }
      store(repulsion, radial(bonds, 0, constants));
      for (int l = 0; l < count; l++) {
        const int64_t e = order[k + l];
        for (int f = 0; f < RADIAL; f++) {
          out.phi[RADIAL_P * e + f] = bonds.column(Bonds::PHI + f)[l];
          out.dphi[RADIAL_P * e + f] = bonds.column(Bonds::DPHI + f)[l];
        }
        out.slope[e] = bonds.column(Bonds::SLOPE)[l];
        out.energy[b.dst[e]] += repulsion[l];
      }
    }
  }
}

// All of `out` must hold zeros.
extern "C" void nfflr_moments(const Model* model, const Batch* batch, const Basis* out) {
  const Batch& b = *batch;
  radial_functions(*model, b, *out);
  for (int64_t e = 0; e < b.n_edges; e++) {
    const Bond bond(b, e);
    real* moments = out->moments + (b.dst[e] * model->n_elements + b.element[b.src[e]]) * MONOMIALS * RADIAL_P;
    for (int c = 0; c < RADIAL_P; c += 8) {
      const row phi = row_at(out->phi + RADIAL_P * e + c);
      UNROLL for (int m = 0; m < MONOMIALS; m++) *reinterpret_cast<row*>(moments + m * RADIAL_P + c) += bond.mono[m] * phi;
    }
  }
}

// grad: (N, n_elements, MONOMIALS, RADIAL_P) → forces (N, 3), virial (B, 3, 3) = Σ r ⊗ g, both added to.
extern "C" void nfflr_forces(const Model* model, const Batch* batch, const Basis* basis, const real* grad, double* forces,
                             double* virial) {
  const Batch& b = *batch;
  const int64_t n = model->n_elements, size = MONOMIALS * RADIAL_P;
  std::vector<real> memory(n * RADIAL_P * MONOMIALS_P + 16, 0);
  real* turned = reinterpret_cast<real*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  for (int64_t e = 0, centre = -1; e < b.n_edges; e++) {
    const int64_t i = b.dst[e], j = b.src[e], element = b.element[j];
    const real* slopes = grad + (i * n + element) * size;
    if (i != centre) {  // once an atom: the same with the monomials along rows
      for (int64_t z = 0; z < n; z++)
        for (int m = 0; m < MONOMIALS; m++)
          for (int f = 0; f < RADIAL_P; f++)
            turned[(z * RADIAL_P + f) * MONOMIALS_P + m] = grad[(i * n + z) * size + m * RADIAL_P + f];
      centre = i;
    }
    const Bond bond(b, e);
    real d_r = basis->slope[e];
    for (int c = 0; c < RADIAL_P; c += 8) {
      row d_phi = {};
      UNROLL for (int m = 0; m < MONOMIALS; m++) d_phi += bond.mono[m] * row_at(slopes + m * RADIAL_P + c);
      d_r += total(d_phi * row_at(basis->dphi + RADIAL_P * e + c));
    }
    alignas(64) real d_mono[MONOMIALS_P];
    row sums[3] = {};
    for (int f = 0; f < RADIAL; f++) {
      const real phi = basis->phi[RADIAL_P * e + f];
      const real* rows = turned + (element * RADIAL_P + f) * MONOMIALS_P;
      for (int k = 0; k < 3; k++) sums[k] += phi * row_at(rows + 8 * k);
    }
    for (int k = 0; k < 3; k++) *reinterpret_cast<row*>(d_mono + 8 * k) = sums[k];
    real d_unit[3];
    pull_back(d_mono, bond.mono, d_unit);
    const real radial = d_unit[0] * bond.u[0] + d_unit[1] * bond.u[1] + d_unit[2] * bond.u[2];
    double* w = virial + 9 * b.structure[i];
    for (int k = 0; k < 3; k++) {
      const double g = (d_unit[k] - radial * bond.u[k]) * bond.inverse + d_r * bond.u[k];
      forces[3 * i + k] += g, forces[3 * j + k] -= g;
      for (int l = 0; l < 3; l++) w[3 * l + k] += double(b.vectors[3 * e + l]) * g;
    }
  }
}

// The transpose of `nfflr_forces`: d_forces and d_virial → d_grad, which must hold zeros.
extern "C" void nfflr_forces_back(const Model* model, const Batch* batch, const Basis* basis, const double* d_forces,
                                  const double* d_virial, real* d_grad) {
  const Batch& b = *batch;
  for (int64_t e = 0; e < b.n_edges; e++) {
    const int64_t i = b.dst[e], j = b.src[e];
    const Bond bond(b, e);
    const double* w = d_virial + 9 * b.structure[i];
    real g[3], t[3], d_mono[MONOMIALS];
    for (int k = 0; k < 3; k++) {
      double sum = d_forces[3 * i + k] - d_forces[3 * j + k];
      for (int l = 0; l < 3; l++) sum += double(b.vectors[3 * e + l]) * w[3 * l + k];
      g[k] = sum;
    }
    const real d_r = g[0] * bond.u[0] + g[1] * bond.u[1] + g[2] * bond.u[2];
    for (int k = 0; k < 3; k++) t[k] = (g[k] - d_r * bond.u[k]) * bond.inverse;
    along(bond.u, bond.mono, t, d_mono);
    real* slopes = d_grad + (i * model->n_elements + b.element[j]) * MONOMIALS * RADIAL_P;
    for (int c = 0; c < RADIAL_P; c += 8) {
      const row phi = row_at(basis->phi + RADIAL_P * e + c), dphi = d_r * row_at(basis->dphi + RADIAL_P * e + c);
      UNROLL for (int m = 0; m < MONOMIALS; m++)
        *reinterpret_cast<row*>(slopes + m * RADIAL_P + c) += bond.mono[m] * dphi + d_mono[m] * phi;
    }
  }
}
