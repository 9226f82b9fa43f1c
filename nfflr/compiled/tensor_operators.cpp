// What a training step needs of tensor messages: their values, and two orders of their derivatives.
//
// Given by the build: REAL, RADIAL (functions per bond), CHANNELS (a multiple of 16), HIDDEN (not used).

#include <algorithm>
#include <vector>

#include "tensor_products.h"

constexpr int RADIAL_P = (RADIAL + 7) / 8 * 8;

struct Bonds {
  int64_t n_atoms, n_edges;
  const int64_t* src;   // (E,)
  const int64_t* dst;   // (E,) ascending
  const real* vectors;  // (E, 3) Å
  const real* phi;      // (E, RADIAL_P)
  const real* dphi;     // (E, RADIAL_P) 1/Å
};

static void divide_by_counts(const real* a, real* out) {  // (RECEIVED, CHANNELS)
  for (int m = 0; m < RECEIVED; m++)
    for (int c = 0; c < CHANNELS; c++)
      out[m * CHANNELS + c] = a[m * CHANNELS + c] * (m < 4 ? real(1) : m < 10 ? real(1) / COUNT[m - 4] : real(1) / COUNT3[m - 10]);
}

static inline vec at(const real* p) { vec x; std::memcpy(&x, p, sizeof(x)); return x; }
static inline void add(real* p, vec x) { x += at(p); std::memcpy(p, &x, sizeof(x)); }

struct Bond {
  real u[3], r, inverse;
  Bond(const real* v) {
    r = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), inverse = 1 / r;
    for (int k = 0; k < 3; k++) u[k] = v[k] * inverse;
  }
};

// The radial functions of a register of channels: sums over the basis with weights (RADIAL, PATHS, CHANNELS).
static inline void radial(const real* weight, const real* basis, vec* r) {
  UNROLL for (int p = 0; p < PATHS; p++) r[p] = at(weight + p * CHANNELS) * basis[0];
  for (int b = 1; b < RADIAL; b++) {
    weight += PATHS * CHANNELS;
    UNROLL for (int p = 0; p < PATHS; p++) r[p] += at(weight + p * CHANNELS) * basis[b];
  }
}

// h (N, SENT, C), weight (RADIAL, PATHS, C) → received (N, RECEIVED, C), which must hold zeros.
extern "C" void nfflr_messages(const Bonds* bonds, const real* h, const real* weight, real* received) {
  for (int c = 0; c < CHANNELS; c += LANES)
    for (int64_t e = 0; e < bonds->n_edges;) {
      const int64_t i = bonds->dst[e];
      vec m[RECEIVED] = {};
      for (; e < bonds->n_edges && bonds->dst[e] == i; e++) {
        const Bond bond(bonds->vectors + 3 * e);
        vec x[SENT], r[PATHS];
        UNROLL for (int k = 0; k < SENT; k++) x[k] = at(h + (bonds->src[e] * SENT + k) * CHANNELS + c);
        radial(weight + c, bonds->phi + e * RADIAL_P, r);
        Neighbour<vec, real>(x, bond.u).send(r, m);
      }
      for (int k = 0; k < RECEIVED; k++) add(received + (i * RECEIVED + k) * CHANNELS + c, m[k]);
    }
}

// Gradients a (N, RECEIVED, C) by what was received → those by h, by the bond vectors (E, 3), and, where it is
// not null, by the weights; all are added to.
extern "C" void nfflr_messages_back(const Bonds* bonds, const real* h, const real* weight, const real* a, real* g_h,
                                    real* g_vectors, real* g_weight) {
  std::vector<real> scaled(RECEIVED * CHANNELS);
  for (int64_t e = 0, centre = -1; e < bonds->n_edges; e++) {
    const int64_t i = bonds->dst[e], j = bonds->src[e];
    if (i != centre) divide_by_counts(a + i * RECEIVED * CHANNELS, scaled.data()), centre = i;
    const Bond bond(bonds->vectors + 3 * e);
    vec total = all(0), sums[3] = {};
    for (int c = 0; c < CHANNELS; c += LANES) {
      vec x[SENT], r[PATHS], slope[PATHS], cotangent[RECEIVED], g_x[SENT] = {}, g_r[PATHS], g_u[3];
      UNROLL for (int k = 0; k < SENT; k++) x[k] = at(h + (j * SENT + k) * CHANNELS + c);
      UNROLL for (int k = 0; k < RECEIVED; k++) cotangent[k] = at(scaled.data() + k * CHANNELS + c);
      radial(weight + c, bonds->phi + e * RADIAL_P, r);
      const Neighbour<vec, real> neighbour(x, bond.u);
      const Reply<vec, real> reply(neighbour, cotangent);
      reply.by_radial(g_r), reply.by_sent_and_unit(r, g_x, g_u);
      UNROLL for (int k = 0; k < SENT; k++) add(g_h + (j * SENT + k) * CHANNELS + c, g_x[k]);
      if (g_weight) {
        for (int b = 0; b < RADIAL; b++)
          UNROLL for (int p = 0; p < PATHS; p++)
            add(g_weight + (b * PATHS + p) * CHANNELS + c, g_r[p] * bonds->phi[e * RADIAL_P + b]);
        continue;
      }
      radial(weight + c, bonds->dphi + e * RADIAL_P, slope);
      UNROLL for (int p = 0; p < PATHS; p++) total += g_r[p] * slope[p];
      UNROLL for (int k = 0; k < 3; k++) sums[k] += g_u[k];
    }
    if (g_weight) continue;
    const real d_r = sum(total), g[3] = {real(sum(sums[0])), real(sum(sums[1])), real(sum(sums[2]))};
    const real along = g[0] * bond.u[0] + g[1] * bond.u[1] + g[2] * bond.u[2];
    for (int k = 0; k < 3; k++) g_vectors[3 * e + k] += (g[k] - along * bond.u[k]) * bond.inverse + d_r * bond.u[k];
  }
}

// The reverse of `nfflr_messages_back`: from the gradients t_h and t_vectors by its results to those by a, h and
// the weights, all added to.
extern "C" void nfflr_messages_back_twice(const Bonds* bonds, const real* h, const real* weight, const real* a,
                                          const real* t_h, const real* t_vectors, real* d_a, real* d_h, real* d_weight) {
  typedef Dual<vec> dual;
  std::vector<real> scaled(RECEIVED * CHANNELS);
  for (int64_t e = 0, centre = -1; e < bonds->n_edges; e++) {
    const int64_t i = bonds->dst[e], j = bonds->src[e];
    if (i != centre) divide_by_counts(a + i * RECEIVED * CHANNELS, scaled.data()), centre = i;
    const Bond bond(bonds->vectors + 3 * e);
    const real* t = t_vectors + 3 * e;
    const real t_r = t[0] * bond.u[0] + t[1] * bond.u[1] + t[2] * bond.u[2];
    Dual<real> u[3];
    for (int k = 0; k < 3; k++) u[k] = {bond.u[k], (t[k] - t_r * bond.u[k]) * bond.inverse};
    const real *phi = bonds->phi + e * RADIAL_P, *dphi = bonds->dphi + e * RADIAL_P;
    for (int c = 0; c < CHANNELS; c += LANES) {
      dual x[SENT], r[PATHS], m[RECEIVED] = {}, g_x[SENT] = {}, g_r[PATHS], g_u[3];
      vec value[PATHS], slope[PATHS], cotangent[RECEIVED];
      UNROLL for (int k = 0; k < SENT; k++)
        x[k] = {at(h + (j * SENT + k) * CHANNELS + c), at(t_h + (j * SENT + k) * CHANNELS + c)};
      UNROLL for (int k = 0; k < RECEIVED; k++) cotangent[k] = at(scaled.data() + k * CHANNELS + c);
      radial(weight + c, phi, value);
      radial(weight + c, dphi, slope);
      UNROLL for (int p = 0; p < PATHS; p++) r[p] = {value[p], slope[p] * t_r};
      const Neighbour<dual, Dual<real>> neighbour(x, u);
      neighbour.send(r, m);
      UNROLL for (int k = 0; k < RECEIVED; k++) add(d_a + (i * RECEIVED + k) * CHANNELS + c, m[k].d);
      const Reply<dual, Dual<real>> reply(neighbour, cotangent);
      reply.by_radial(g_r), reply.by_sent_and_unit(r, g_x, g_u);
      UNROLL for (int k = 0; k < SENT; k++) add(d_h + (j * SENT + k) * CHANNELS + c, g_x[k].d);
      for (int b = 0; b < RADIAL; b++) {
        const real first = phi[b], second = dphi[b] * t_r;
        UNROLL for (int p = 0; p < PATHS; p++)
          add(d_weight + (b * PATHS + p) * CHANNELS + c, g_r[p].d * first + g_r[p].v * second);
      }
    }
  }
}

// tensors (N, TENSORS, C) → products (N, PRODUCTS or N_INVARIANTS, C).
template <bool ALL> static void values(int64_t n, const real* tensors, real* out) {
  constexpr int size = ALL ? PRODUCTS : N_INVARIANTS;
  for (int64_t i = 0; i < n; i++)
    for (int c = 0; c < CHANNELS; c += LANES) {
      vec x[SLOTS];
      for (int k = 0; k < TENSORS; k++) x[k] = at(tensors + (i * TENSORS + k) * CHANNELS + c);
      products<ALL>(x);
      for (int k = 0; k < size; k++) std::memcpy(out + (i * size + k) * CHANNELS + c, &x[TENSORS + k], sizeof(vec));
    }
}

// Gradients a by the products → those by the tensors.
template <bool ALL> static void gradients(int64_t n, const real* tensors, const real* a, real* out) {
  constexpr int size = ALL ? PRODUCTS : N_INVARIANTS;
  for (int64_t i = 0; i < n; i++)
    for (int c = 0; c < CHANNELS; c += LANES) {
      vec x[SLOTS], g[SLOTS] = {};
      for (int k = 0; k < TENSORS; k++) x[k] = at(tensors + (i * TENSORS + k) * CHANNELS + c);
      for (int k = 0; k < size; k++) g[TENSORS + k] = at(a + (i * size + k) * CHANNELS + c);
      products<ALL>(x), reverse_products<ALL>(x, g);
      for (int k = 0; k < TENSORS; k++) std::memcpy(out + (i * TENSORS + k) * CHANNELS + c, &g[k], sizeof(vec));
    }
}

// The reverse of `gradients`: from the gradient t by its result to those by a and by the tensors.
template <bool ALL>
static void curvatures(int64_t n, const real* tensors, const real* a, const real* t, real* d_a, real* d_tensors) {
  typedef Dual<vec> dual;
  constexpr int size = ALL ? PRODUCTS : N_INVARIANTS;
  for (int64_t i = 0; i < n; i++)
    for (int c = 0; c < CHANNELS; c += LANES) {
      dual x[SLOTS], g[SLOTS] = {};
      for (int k = 0; k < TENSORS; k++) {
        const int64_t place = (i * TENSORS + k) * CHANNELS + c;
        x[k] = {at(tensors + place), at(t + place)};
      }
      for (int k = 0; k < size; k++) g[TENSORS + k] = {at(a + (i * size + k) * CHANNELS + c), all(0)};
      products<ALL>(x);
      for (int k = 0; k < size; k++) std::memcpy(d_a + (i * size + k) * CHANNELS + c, &x[TENSORS + k].d, sizeof(vec));
      reverse_products<ALL>(x, g);
      for (int k = 0; k < TENSORS; k++) std::memcpy(d_tensors + (i * TENSORS + k) * CHANNELS + c, &g[k].d, sizeof(vec));
    }
}

extern "C" void nfflr_products(int64_t n, int64_t all, const real* tensors, real* out) {
  all ? values<true>(n, tensors, out) : values<false>(n, tensors, out);
}
extern "C" void nfflr_products_back(int64_t n, int64_t all, const real* tensors, const real* a, real* out) {
  all ? gradients<true>(n, tensors, a, out) : gradients<false>(n, tensors, a, out);
}
extern "C" void nfflr_products_back_twice(int64_t n, int64_t all, const real* tensors, const real* a, const real* t,
                                          real* d_a, real* d_tensors) {
  all ? curvatures<true>(n, tensors, a, t, d_a, d_tensors) : curvatures<false>(n, tensors, a, t, d_a, d_tensors);
}
