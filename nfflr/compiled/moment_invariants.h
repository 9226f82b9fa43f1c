// Invariants of Cartesian tensors up to rank 3 (see invariants() in nfflr/models/moment.py) and their reverse.
#pragma once

#include "moment_bonds.h"

constexpr int M2[3][3] = {{0, 1, 2}, {1, 3, 4}, {2, 4, 5}};                          // component (a, b)
constexpr int T3[3][6] = {{0, 1, 2, 3, 4, 5}, {1, 3, 4, 6, 7, 8}, {2, 4, 5, 7, 8, 9}};  // component (a, bc)
constexpr int LEFT[6] = {0, 0, 0, 1, 1, 2}, RIGHT[6] = {0, 1, 2, 1, 2, 2};
constexpr int TIMES2[6] = {1, 2, 2, 1, 2, 1}, TIMES3[10] = {1, 3, 3, 3, 6, 3, 1, 3, 3, 1};

constexpr int TENSOR[HARMONICS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17};  // where harmonics are mixed to
constexpr int TRACES[4][3] = {{9, 4, 7}, {15, 10, 13}, {18, 11, 16}, {19, 12, 17}};      // zz = −xx − yy and so on

// Components of traceless tensors (MONOMIALS, CHANNELS) that follow from the others.
static void complete_traces(real* tensors) {
  for (auto [zz, xx, yy] : TRACES)
    for (int c = 0; c < CHANNELS; c++) tensors[zz * CHANNELS + c] = -tensors[xx * CHANNELS + c] - tensors[yy * CHANNELS + c];
}

// Its reverse.
static void fold_traces(real* tensors) {
  for (auto [zz, xx, yy] : TRACES)
    for (int c = 0; c < CHANNELS; c++) {
      tensors[xx * CHANNELS + c] -= tensors[zz * CHANNELS + c];
      tensors[yy * CHANNELS + c] -= tensors[zz * CHANNELS + c];
    }
}

// Tensors of one register of channels, and products of two of them.
struct Products {
  vec v[3], m[6], t[10], mv[3], tm[3], tv[6], mm[6], tt[6];

  explicit Products(const real* tensors) {
    UNROLL for (int k = 0; k < 3; k++) v[k] = load(tensors + (1 + k) * CHANNELS);
    UNROLL for (int k = 0; k < 6; k++) m[k] = load(tensors + (4 + k) * CHANNELS);
    UNROLL for (int k = 0; k < 10; k++) t[k] = load(tensors + (10 + k) * CHANNELS);
    UNROLL for (int a = 0; a < 3; a++) {
      mv[a] = m[M2[a][0]] * v[0] + m[M2[a][1]] * v[1] + m[M2[a][2]] * v[2];
      tm[a] = all(0);
      UNROLL for (int p = 0; p < 6; p++) tm[a] += t[T3[a][p]] * m[p] * real(TIMES2[p]);
    }
    UNROLL for (int p = 0; p < 6; p++) {
      tv[p] = mm[p] = tt[p] = all(0);
      UNROLL for (int a = 0; a < 3; a++) {
        tv[p] += t[T3[a][p]] * v[a];
        mm[p] += m[M2[LEFT[p]][a]] * m[M2[RIGHT[p]][a]];
      }
      UNROLL for (int q = 0; q < 6; q++)
        tt[p] += t[T3[LEFT[p]][q]] * t[T3[RIGHT[p]][q]] * real(TIMES2[q]);
    }
  }
};

static void invariants(const real* tensors, const real* shift, real* features) {
  for (int c = 0; c < CHANNELS; c += LANES) {
    const Products x(tensors + c);
    vec f[INVARIANTS] = {};
    f[0] = load(tensors + c);
    UNROLL for (int a = 0; a < 3; a++) {
      f[1] += x.v[a] * x.v[a], f[4] += x.mv[a] * x.v[a], f[6] += x.tm[a] * x.v[a];
      f[8] += x.mv[a] * x.mv[a], f[9] += x.tm[a] * x.tm[a], f[11] += x.tm[a] * x.mv[a];
    }
    UNROLL for (int p = 0; p < 6; p++) {
      const real n = TIMES2[p];
      f[2] += n * x.m[p] * x.m[p], f[5] += n * x.mm[p] * x.m[p], f[7] += n * x.tt[p] * x.m[p];
      f[10] += n * x.tv[p] * x.tv[p], f[12] += n * x.tt[p] * x.mm[p], f[13] += n * x.tt[p] * x.tt[p];
    }
    UNROLL for (int k = 0; k < 10; k++) f[3] += real(TIMES3[k]) * x.t[k] * x.t[k];
    UNROLL for (int k = 0; k < INVARIANTS; k++)
      store(features + k * CHANNELS + c, f[k] - load(shift + k * CHANNELS + c));
  }
}

// Gradients of the features are pulled back to the tensors, which they replace.
static void pull_back_invariants(real* tensors, const real* features) {
  for (int c = 0; c < CHANNELS; c += LANES) {
    const Products x(tensors + c);
    vec g[INVARIANTS], d_mv[3], d_tm[3], d_tv[6], x_mm[6], x_tt[6];
    UNROLL for (int k = 0; k < INVARIANTS; k++) g[k] = load(features + k * CHANNELS + c);
    UNROLL for (int a = 0; a < 3; a++) {
      d_mv[a] = g[4] * x.v[a] + real(2) * g[8] * x.mv[a] + g[11] * x.tm[a];
      d_tm[a] = g[6] * x.v[a] + real(2) * g[9] * x.tm[a] + g[11] * x.mv[a];
    }
    // Of mm and tt as full matrices: each is a square, which gives 2 where an off-diagonal pair gives 1 + 1.
    UNROLL for (int p = 0; p < 6; p++) {
      d_tv[p] = real(2 * TIMES2[p]) * g[10] * x.tv[p];
      x_mm[p] = real(2) * (g[5] * x.m[p] + g[12] * x.tt[p]);
      x_tt[p] = real(2) * (g[7] * x.m[p] + g[12] * x.mm[p] + real(2) * g[13] * x.tt[p]);
    }
    store(tensors + c, g[0]);
    UNROLL for (int a = 0; a < 3; a++) {
      vec d = real(2) * g[1] * x.v[a] + g[4] * x.mv[a] + g[6] * x.tm[a];
      UNROLL for (int b = 0; b < 3; b++) d += x.m[M2[a][b]] * d_mv[b];
      UNROLL for (int p = 0; p < 6; p++) d += x.t[T3[a][p]] * d_tv[p];
      store(tensors + (1 + a) * CHANNELS + c, d);
    }
    vec d[6];
    UNROLL for (int p = 0; p < 6; p++) {
      d[p] = real(2) * g[2] * x.m[p] + g[5] * x.mm[p] + g[7] * x.tt[p];
      UNROLL for (int a = 0; a < 3; a++) d[p] += d_tm[a] * x.t[T3[a][p]];
      d[p] *= real(TIMES2[p]);
    }
    UNROLL for (int a = 0; a < 3; a++) UNROLL for (int b = 0; b < 3; b++) {
      vec w = d_mv[a] * x.v[b];
      UNROLL for (int k = 0; k < 3; k++) w += x_mm[M2[a][k]] * x.m[M2[k][b]];
      d[M2[a][b]] += w;
    }
    UNROLL for (int p = 0; p < 6; p++) store(tensors + (4 + p) * CHANNELS + c, d[p]);
    vec e[10];
    UNROLL for (int k = 0; k < 10; k++) e[k] = real(2 * TIMES3[k]) * g[3] * x.t[k];
    UNROLL for (int a = 0; a < 3; a++) UNROLL for (int p = 0; p < 6; p++) {
      vec w = d_tm[a] * x.m[p];
      UNROLL for (int k = 0; k < 3; k++) w += x_tt[M2[a][k]] * x.t[T3[k][p]];
      e[T3[a][p]] += w * real(TIMES2[p]) + x.v[a] * d_tv[p];
    }
    UNROLL for (int k = 0; k < 10; k++) store(tensors + (10 + k) * CHANNELS + c, e[k]);
  }
}
