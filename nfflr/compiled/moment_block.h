// Forward and reverse pass of one block of atoms.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "moment_invariants.h"

struct Structures {
  int64_t n_atoms, n_local, n_edges, n_structures;  // the first n_local atoms are centres
  const double* positions;    // (N, 3) Å
  const int64_t* numbers;     // (N,)
  const int64_t* structure;   // (N,) or null
  const int64_t* src;         // (E,)
  const int64_t* dst;         // (E,) ascending
  const double* translation;  // (E, 3) Å
  const double* cell;         // (B, 3, 3) Å
};

enum Status { DONE = 0, UNKNOWN_ELEMENT = 1, COINCIDENT = 2, NO_MEMORY = 3 };

struct Workspace {
  int64_t capacity = 0;
  real *bonds = nullptr, *raw = nullptr, *transposed = nullptr, *mono = nullptr;
  int64_t *src = nullptr, *raw_src = nullptr;
  int* raw_element = nullptr;
  std::vector<Run> runs[BLOCK];
  std::vector<int> counts;
  std::vector<std::unique_ptr<char[]>> memory;
  alignas(64) real tensors[BLOCK][MONOMIALS * CHANNELS];
  alignas(64) real features[BLOCK][FEATURES];
  alignas(64) real hidden[BLOCK][HIDDEN];

  template <class T> T* take(int64_t n) {
    memory.emplace_back(new char[n * sizeof(T) + 64]);
    auto address = reinterpret_cast<uintptr_t>(memory.back().get());
    return reinterpret_cast<T*>((address + 63) / 64 * 64);
  }
  void reserve(int64_t slots) {
    if (slots <= capacity) return;
    memory.clear();
    // An odd number of cache lines, so that columns do not fall on the same sets of the cache.
    capacity = ((slots + slots / 4) / 16 | 1) * 16 + 32;
    bonds = take<real>(BLOCK * Bonds::COLUMNS * capacity);
    src = take<int64_t>(BLOCK * capacity);
    raw = take<real>(3 * capacity);
    raw_src = take<int64_t>(capacity);
    raw_element = take<int>(capacity);
    transposed = take<real>(RADIAL_P * capacity);
    mono = take<real>(MONOMIALS * capacity);
    std::fill(transposed, transposed + RADIAL_P * capacity, real(0));
  }
  Bonds of(int a) const { return {bonds + a * Bonds::COLUMNS * capacity, capacity, src + a * capacity}; }
};

struct Block {  // of atoms of one element
  const Model& m;
  const Structures& s;
  const int* elements;  // (N,) of all atoms
  Workspace& w;
  const int64_t* atoms;
  const int size, element;
  const int64_t own = m.own(element);  // whose weights
  double repulsion[BLOCK];

  // Bonds of one atom shorter than the cutoff, from its candidates edge…last, grouped by element.
  Status gather(int a, int64_t edge, int64_t last, int64_t* culprits) {
    const int64_t i = atoms[a];
    const double *x = s.positions, xi = x[3 * i], yi = x[3 * i + 1], zi = x[3 * i + 2];
    const double limit = m.cutoff * m.cutoff;
    double nearest = limit;
    real *rx = w.raw, *ry = rx + w.capacity, *rz = ry + w.capacity;
    int64_t n = 0;
    for (; edge < last; edge++) {
      const int64_t j = s.src[edge];
      const double* shift = s.translation + 3 * edge;
      const double dx = x[3 * j] + shift[0] - xi, dy = x[3 * j + 1] + shift[1] - yi;
      const double dz = x[3 * j + 2] + shift[2] - zi, square = dx * dx + dy * dy + dz * dz;
      rx[n] = dx, ry[n] = dy, rz[n] = dz, w.raw_src[n] = j;  // kept only if counted
      n += square < limit;
      if (square < nearest) nearest = square, culprits[1] = j;
    }
    if (nearest < 1e-6) return culprits[0] = i, COINCIDENT;  // graph.COINCIDENT squared

    const Bonds bonds = w.of(a);
    auto& runs = w.runs[a];
    runs.clear();
    real *bx = bonds.column(Bonds::X), *by = bonds.column(Bonds::Y), *bz = bonds.column(Bonds::Z);
    int64_t end = n;
    if (m.n_elements == 1) {
      if (n) runs.push_back({0, 0, int(n)});
      std::copy(rx, rx + n, bx), std::copy(ry, ry + n, by), std::copy(rz, rz + n, bz);
      std::copy(w.raw_src, w.raw_src + n, bonds.src);
      end = pad(bonds, n);
    } else {
      end = 0;
      std::fill(w.counts.begin(), w.counts.end(), 0);
      for (int64_t k = 0; k < n; k++) w.counts[w.raw_element[k] = elements[w.raw_src[k]]]++;
      for (int z = 0; z < m.n_elements; z++)
        if (w.counts[z]) {
          runs.push_back({z, int(end), 0});
          end += (w.counts[z] + LANES - 1) / LANES * LANES;
          w.counts[z] = runs.size() - 1;
        }
      for (int64_t k = 0; k < n; k++) {
        Run& run = runs[w.counts[w.raw_element[k]]];
        const int64_t slot = run.first + run.count++;
        bx[slot] = rx[k], by[slot] = ry[k], bz[slot] = rz[k], bonds.src[slot] = w.raw_src[k];
      }
      for (const Run& run : runs) pad(bonds, run.first + run.count);
    }
    real *r = bonds.column(Bonds::R), *inverse = bonds.column(Bonds::INVERSE);
    for (int64_t k = 0; k < end; k += LANES) {
      const vec px = load(bx + k), py = load(by + k), pz = load(bz + k), square = px * px + py * py + pz * pz;
      for (int l = 0; l < LANES; l++) r[k + l] = std::sqrt(square[l]);
      const vec inv = real(1) / load(r + k);
      store(inverse + k, inv), store(bx + k, px * inv), store(by + k, py * inv), store(bz + k, pz * inv);
    }
    return DONE;
  }

  // Fills the last register with bonds as long as the cutoff, where all functions vanish.
  int64_t pad(const Bonds& bonds, int64_t n) const {
    for (; n % LANES; n++) {
      bonds.column(Bonds::X)[n] = m.cutoff;
      bonds.column(Bonds::Y)[n] = bonds.column(Bonds::Z)[n] = 0;
    }
    return n;
  }

  // Mixed traceless tensors (MONOMIALS, CHANNELS) of one atom.
  void forward(int a) {
    const Bonds bonds = w.of(a);
    real* tensors = w.tensors[a];
    std::fill(tensors, tensors + MONOMIALS * CHANNELS, real(0));
    for (int c = 0; c < CHANNELS; c++) tensors[c] = -m.shift[own * CHANNELS + c];
    vec energy = all(0);
    alignas(64) real moments[MONOMIALS][RADIAL_P];
    for (const Run& run : w.runs[a]) {
      const Radial functions(m, element, run.element);
      for (int64_t k = 0; k < run.count; k += LANES) {
        const int64_t slot = run.first + k;
        energy += functions(bonds, slot);
        vec mono[MONOMIALS] = {all(1)};
        monomials(load(bonds.column(Bonds::X) + slot), load(bonds.column(Bonds::Y) + slot),
                  load(bonds.column(Bonds::Z) + slot), mono);
        UNROLL for (int q = 0; q < MONOMIALS; q++) store(w.mono + q * w.capacity + k, mono[q]);
        for (int n = 0; n < RADIAL; n++)
          for (int l = 0; l < LANES; l++)
            w.transposed[(k + l) * RADIAL_P + n] = bonds.column(Bonds::PHI + n)[slot + l];
      }
      for (int part = 0; part < ROWS; part++) {
        row sums[MONOMIALS] = {};
        for (int64_t k = 0; k < run.count; k++) {
          const row phi = *reinterpret_cast<const row*>(w.transposed + k * RADIAL_P + 8 * part);
          const real* mono = w.mono + k;
          sums[0] += phi;
          UNROLL for (int q = 1; q < MONOMIALS; q++) sums[q] += phi * mono[q * w.capacity];
        }
        UNROLL for (int q = 4; q < 10; q++)
          if (LEFT[q - 4] == RIGHT[q - 4]) sums[q] -= sums[0] * real(1.0 / 3);
        UNROLL for (int b = 0; b < 3; b++) UNROLL for (int c = 0; c < 3; c++)  // T_bcc −= T_b/5, or 3/5
          sums[10 + T3[b][M2[c][c]]] -= sums[1 + b] * real(b == c ? 3.0 / 5 : 1.0 / 5);
        UNROLL for (int q = 0; q < MONOMIALS; q++) *reinterpret_cast<row*>(moments[q] + 8 * part) = sums[q];
      }
      const real* mix = m.mix + (own * m.n_elements + run.element) * 4 * RADIAL_P * CHANNELS;
      for (int rank = 0; rank < 4; rank++, mix += RADIAL_P * CHANNELS)
        for (int q = FIRST[rank]; q < FIRST[rank + 1]; q++)
          for (int c = 0; c < CHANNELS; c += LANES) {
            vec mixed = load(tensors + q * CHANNELS + c);
            UNROLL for (int n = 0; n < RADIAL; n++) mixed += moments[q][n] * load(mix + n * CHANNELS + c);
            store(tensors + q * CHANNELS + c, mixed);
          }
    }
    repulsion[a] = sum(energy);
    apply_gain(a);
    invariants(tensors, m.feature_shift, w.features[a]);
  }

  void apply_gain(int a) {
    if (m.n_own == m.n_elements) return;
    const real* gain = m.gain + element * 4 * CHANNELS;
    for (int rank = 0; rank < 4; rank++)
      for (int q = FIRST[rank]; q < FIRST[rank + 1]; q++)
        for (int c = 0; c < CHANNELS; c++) w.tensors[a][q * CHANNELS + c] *= gain[rank * CHANNELS + c];
  }

  // Atomic energies of the block; features are replaced by their gradients.
  void readout(double* energies) {
    const real *hidden = m.hidden + own * FEATURES * HIDDEN, *hidden_t = m.hidden_t + own * FEATURES * HIDDEN;
    const real *bias = m.bias + element * HIDDEN, *linear = m.linear + own * FEATURES;
    const real* last = m.readout + own * HIDDEN;
    for (int h = 0; h < HIDDEN; h += LANES) {
      vec sums[BLOCK];
      UNROLL for (int a = 0; a < BLOCK; a++) sums[a] = load(bias + h);
      for (int f = 0; f < FEATURES; f++) {
        const vec weight = load(hidden + f * HIDDEN + h);
        UNROLL for (int a = 0; a < BLOCK; a++) sums[a] += w.features[a][f] * weight;
      }
      UNROLL for (int a = 0; a < BLOCK; a++) store(w.hidden[a] + h, sums[a]);
    }
    for (int a = 0; a < size; a++) {
      vec energy = all(0);
      for (int f = 0; f < FEATURES; f += LANES) energy += load(w.features[a] + f) * load(linear + f);
      for (int h = 0; h < HIDDEN; h += LANES) {
        const vec x = load(w.hidden[a] + h), weight = load(last + h);
        const vec sigmoid = real(1) / (real(1) + exponential(-x));
        energy += x * sigmoid * weight;
        store(w.hidden[a] + h, weight * sigmoid * (real(1) + x * (real(1) - sigmoid)));
      }
      const double raw = sum(energy) + m.constant[own] + repulsion[a];
      energies[atoms[a]] = raw * m.scale + m.reference[element];
    }
    for (int f = 0; f < FEATURES; f += LANES) {
      vec sums[BLOCK];
      UNROLL for (int a = 0; a < BLOCK; a++) sums[a] = load(linear + f);
      for (int h = 0; h < HIDDEN; h++) {
        const vec weight = load(hidden_t + h * FEATURES + f);
        UNROLL for (int a = 0; a < BLOCK; a++) sums[a] += w.hidden[a][h] * weight;
      }
      UNROLL for (int a = 0; a < BLOCK; a++) store(w.features[a] + f, sums[a]);
    }
  }

  // Adds to forces (N, 3) and to the virial (6,) of the atom's structure.
  void reverse(int a, double* forces, double* virial) {
    real* tensors = w.tensors[a];
    pull_back_invariants(tensors, w.features[a]);
    apply_gain(a);
    const Bonds bonds = w.of(a);
    vec total[3] = {}, outer[6] = {};
    alignas(64) real gradient[MONOMIALS][RADIAL_P];
    for (const Run& run : w.runs[a]) {
      const real* mix = m.mix_t + (own * m.n_elements + run.element) * 4 * CHANNELS * RADIAL_P;
      for (int part = 0; part < ROWS; part++) {
        row sums[MONOMIALS];
        UNROLL for (int rank = 0; rank < 4; rank++) {
          UNROLL for (int q = FIRST[rank]; q < FIRST[rank + 1]; q++) sums[q] = row{};
          for (int c = 0; c < CHANNELS; c++) {
            const row weight = *reinterpret_cast<const row*>(mix + (rank * CHANNELS + c) * RADIAL_P + 8 * part);
            UNROLL for (int q = FIRST[rank]; q < FIRST[rank + 1]; q++)
              sums[q] += tensors[q * CHANNELS + c] * weight;
          }
        }
        UNROLL for (int b = 0; b < 3; b++) UNROLL for (int c = 0; c < 3; c++)
          sums[1 + b] -= sums[10 + T3[b][M2[c][c]]] * real(b == c ? 3.0 / 5 : 1.0 / 5);
        sums[0] -= (sums[4] + sums[7] + sums[9]) * real(1.0 / 3);
        UNROLL for (int q = 0; q < MONOMIALS; q++) *reinterpret_cast<row*>(gradient[q] + 8 * part) = sums[q];
      }
      for (int64_t k = run.first; k < run.first + run.count; k += LANES) bond_gradients(bonds, k, gradient, total, outer);
      scatter(bonds, run, forces);
    }
    const double scale = m.scale;
    for (int axis = 0; axis < 3; axis++) forces[3 * atoms[a] + axis] += scale * sum(total[axis]);
    if (virial) for (int k = 0; k < 6; k++) virial[k] += scale * sum(outer[k]);
  }

  // ∂E/∂r of one register of bonds, left in the columns of the first three radial slopes' place.
  void bond_gradients(const Bonds& bonds, int64_t k, const real (*gradient)[RADIAL_P], vec* total, vec* outer) {
    const vec ux = load(bonds.column(Bonds::X) + k), uy = load(bonds.column(Bonds::Y) + k);
    const vec uz = load(bonds.column(Bonds::Z) + k);
    vec mono[MONOMIALS] = {all(1)}, d_mono[MONOMIALS] = {}, g[3];
    monomials(ux, uy, uz, mono);
    vec d_r = load(bonds.column(Bonds::SLOPE) + k);
    for (int n = 0; n < RADIAL; n++) {
      const vec phi = load(bonds.column(Bonds::PHI + n) + k);
      vec d_phi = all(0);
      UNROLL for (int q = 0; q < MONOMIALS; q++) {
        d_phi += gradient[q][n] * mono[q];
        d_mono[q] += gradient[q][n] * phi;
      }
      d_r += d_phi * load(bonds.column(Bonds::DPHI + n) + k);
    }
    pull_back(d_mono, mono, g);
    vec gx = g[0], gy = g[1], gz = g[2];
    const vec inverse = load(bonds.column(Bonds::INVERSE) + k), r = load(bonds.column(Bonds::R) + k);
    const vec radial = d_r - (gx * ux + gy * uy + gz * uz) * inverse;
    gx = gx * inverse + radial * ux, gy = gy * inverse + radial * uy, gz = gz * inverse + radial * uz;
    total[0] += gx, total[1] += gy, total[2] += gz;
    const vec x = r * ux, y = r * uy, z = r * uz;
    outer[0] += x * gx, outer[1] += y * gy, outer[2] += z * gz;
    outer[3] += real(0.5) * (y * gz + z * gy), outer[4] += real(0.5) * (x * gz + z * gx);
    outer[5] += real(0.5) * (x * gy + y * gx);
    store(bonds.column(Bonds::X) + k, gx), store(bonds.column(Bonds::Y) + k, gy), store(bonds.column(Bonds::Z) + k, gz);
  }

  void scatter(const Bonds& bonds, const Run& run, double* forces) const {
    const real *gx = bonds.column(Bonds::X), *gy = bonds.column(Bonds::Y), *gz = bonds.column(Bonds::Z);
    for (int k = run.first; k < run.first + run.count; k++) {
      double* f = forces + 3 * bonds.src[k];
      f[0] -= m.scale * gx[k], f[1] -= m.scale * gy[k], f[2] -= m.scale * gz[k];
    }
  }
};
