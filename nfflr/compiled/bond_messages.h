// Tensor messages of nfflr/nn/messages.py along one bond, for one register of channels, and their reverse.
//
// Both are written once, for any kind of number: with registers they give values, with dual numbers also the
// derivatives of these along a direction, which is all that training needs of second derivatives.
#pragma once

#include "lanes.h"

constexpr int SENT = 10, RECEIVED = 20, PATHS = 20;  // components of what is sent and received
constexpr int SYM[3][3] = {{0, 1, 2}, {1, 3, 4}, {2, 4, 5}};              // component (a, b) of rank 2
constexpr int SYM3[6][3] = {{0, 1, 2}, {1, 3, 4}, {2, 4, 5}, {3, 6, 7}, {4, 7, 8}, {5, 8, 9}};  // (ab, c)
constexpr int FIRST_AXIS[6] = {0, 0, 0, 1, 1, 2}, SECOND_AXIS[6] = {0, 1, 2, 1, 2, 2}, COUNT[6] = {1, 2, 2, 1, 2, 1};
constexpr int AXES3[10][3] = {{0, 0, 0}, {0, 0, 1}, {0, 0, 2}, {0, 1, 1}, {0, 1, 2},
                              {0, 2, 2}, {1, 1, 1}, {1, 1, 2}, {1, 2, 2}, {2, 2, 2}};
constexpr int COUNT3[10] = {1, 3, 3, 3, 6, 3, 1, 3, 3, 1};

template <class V> struct Dual {  // value and derivative along a direction
  V v, d;
};
template <class V> static inline Dual<V> operator+(Dual<V> x, Dual<V> y) { return {x.v + y.v, x.d + y.d}; }
template <class V> static inline Dual<V>& operator+=(Dual<V>& x, Dual<V> y) { return x = x + y; }
template <class V, class W> static inline auto operator*(Dual<V> x, Dual<W> y) -> Dual<decltype(x.v * y.v)> {
  return {x.v * y.v, x.v * y.d + x.d * y.v};
}
template <class V> static inline Dual<V> operator*(Dual<V> x, real y) { return {x.v * y, x.d * y}; }
template <class V> static inline auto operator*(vec x, Dual<V> y) -> Dual<vec> { return {x * y.v, x * y.d}; }

// What a neighbour sends, T: a register or a dual one, contracted with the bond's unit vector, S: a number.
template <class T, class S> struct Neighbour {
  const S* u;
  T h0, h1[3], h2[6], d, w[3], q;

  Neighbour(const T* h, const S* unit) : u(unit), h0(h[0]) {
    UNROLL for (int a = 0; a < 3; a++) h1[a] = h[1 + a];
    UNROLL for (int k = 0; k < 6; k++) h2[k] = h[4 + k];
    d = h1[0] * u[0] + h1[1] * u[1] + h1[2] * u[2];
    UNROLL for (int a = 0; a < 3; a++) w[a] = h2[SYM[a][0]] * u[0] + h2[SYM[a][1]] * u[1] + h2[SYM[a][2]] * u[2];
    q = w[0] * u[0] + w[1] * u[1] + w[2] * u[2];
  }

  T along(const T* r) const { return r[0] * h0 + r[1] * d + r[2] * q; }

  // Adds to the received tensors.
  void send(const T* r, T* m) const {
    m[0] += along(r);
    const T s1 = along(r + 3), s2 = along(r + 8), s3 = along(r + 14);
    T x[3], z[3];
    UNROLL for (int a = 0; a < 3; a++) {
      m[1 + a] += s1 * u[a] + r[6] * h1[a] + r[7] * w[a];
      x[a] = r[11] * h1[a] + r[12] * w[a];
      z[a] = r[17] * h1[a] + r[18] * w[a];
    }
    // Rank 3 is the sum over axes of what lies along that axis times the matrix of the two others.
    T y[6];
    UNROLL for (int k = 0; k < 6; k++) {
      const int a = FIRST_AXIS[k], b = SECOND_AXIS[k];
      m[4 + k] += s2 * (u[a] * u[b]) + x[a] * u[b] + x[b] * u[a] + r[13] * h2[k];
      y[k] = r[19] * h2[k];
    }
    UNROLL for (int k = 0; k < 10; k++) {
      const int a = AXES3[k][0], b = AXES3[k][1], c = AXES3[k][2];
      m[10 + k] += s3 * (u[a] * u[b] * u[c]) + z[a] * (u[b] * u[c]) + z[b] * (u[a] * u[c]) + z[c] * (u[a] * u[b]) +
                   y[SYM[a][b]] * u[c] + y[SYM[a][c]] * u[b] + y[SYM[b][c]] * u[a];
    }
  }

  // With a: the energy's gradient by the received tensors, each component divided by how often it occurs.
  // Adds to the gradients by what was sent, and writes those by the radial functions and the unit vector.
  void reverse(const T* r, const vec* a, T* g_h, T* g_r, T* g_u) const {
    const vec *a1 = a + 1, *a2 = a + 4, *a3 = a + 10;
    T p2[3], p3[3], m3[6];
    UNROLL for (int k = 0; k < 6; k++)
      m3[k] = a3[SYM3[k][0]] * one(u[0]) + a3[SYM3[k][1]] * one(u[1]) + a3[SYM3[k][2]] * one(u[2]);
    UNROLL for (int k = 0; k < 3; k++) {
      p2[k] = a2[SYM[k][0]] * one(u[0]) + a2[SYM[k][1]] * one(u[1]) + a2[SYM[k][2]] * one(u[2]);
      p3[k] = m3[SYM[k][0]] * u[0] + m3[SYM[k][1]] * u[1] + m3[SYM[k][2]] * u[2];
    }
    const T b1 = a1[0] * one(u[0]) + a1[1] * one(u[1]) + a1[2] * one(u[2]);
    const T b2 = p2[0] * u[0] + p2[1] * u[1] + p2[2] * u[2], b3 = p3[0] * u[0] + p3[1] * u[1] + p3[2] * u[2];
    const T s1 = along(r + 3), s2 = along(r + 8), s3 = along(r + 14);
    g_r[0] = a[0] * h0, g_r[1] = a[0] * d, g_r[2] = a[0] * q;
    g_r[3] = b1 * h0, g_r[4] = b1 * d, g_r[5] = b1 * q;
    g_r[8] = b2 * h0, g_r[9] = b2 * d, g_r[10] = b2 * q;
    g_r[14] = b3 * h0, g_r[15] = b3 * d, g_r[16] = b3 * q;
    g_r[6] = a1[0] * h1[0] + a1[1] * h1[1] + a1[2] * h1[2];
    g_r[7] = a1[0] * w[0] + a1[1] * w[1] + a1[2] * w[2];
    g_r[11] = (p2[0] * h1[0] + p2[1] * h1[1] + p2[2] * h1[2]) * real(2);
    g_r[12] = (p2[0] * w[0] + p2[1] * w[1] + p2[2] * w[2]) * real(2);
    g_r[17] = (p3[0] * h1[0] + p3[1] * h1[1] + p3[2] * h1[2]) * real(3);
    g_r[18] = (p3[0] * w[0] + p3[1] * w[1] + p3[2] * w[2]) * real(3);
    g_r[13] = a2[0] * h2[0], g_r[19] = m3[0] * h2[0];
    UNROLL for (int k = 1; k < 6; k++) {
      g_r[13] += a2[k] * h2[k] * real(COUNT[k]);
      g_r[19] += m3[k] * h2[k] * real(COUNT[k]);
    }
    g_r[19] = g_r[19] * real(3);

    const T g_d = a[0] * r[1] + b1 * r[4] + b2 * r[9] + b3 * r[15];
    const T g_q = a[0] * r[2] + b1 * r[5] + b2 * r[10] + b3 * r[16];
    g_h[0] += a[0] * r[0] + b1 * r[3] + b2 * r[8] + b3 * r[14];
    T g_w[3];
    UNROLL for (int k = 0; k < 3; k++) {
      g_h[1 + k] += g_d * u[k] + a1[k] * r[6] + p2[k] * r[11] * real(2) + p3[k] * r[17] * real(3);
      g_w[k] = g_q * u[k] + a1[k] * r[7] + p2[k] * r[12] * real(2) + p3[k] * r[18] * real(3);
    }
    UNROLL for (int k = 0; k < 6; k++) {
      const int i = FIRST_AXIS[k], j = SECOND_AXIS[k];
      T g = a2[k] * r[13] + m3[k] * r[19] * real(3);
      g = g * real(COUNT[k]) + g_w[i] * u[j];
      if (i != j) g += g_w[j] * u[i];
      g_h[4 + k] += g;
    }
    UNROLL for (int k = 0; k < 3; k++) {
      T g = g_d * h1[k] + g_q * w[k] + a1[k] * s1 + p2[k] * s2 * real(2) + p3[k] * s3 * real(3);
      UNROLL for (int l = 0; l < 3; l++) {
        const int kl = SYM[k][l];
        g += h2[kl] * g_w[l];
        g += a2[kl] * (r[11] * h1[l] + r[12] * w[l]) * real(2);
        g += m3[kl] * (r[17] * h1[l] + r[18] * w[l]) * real(6);
      }
      T y = a3[SYM3[0][k]] * h2[0];
      UNROLL for (int l = 1; l < 6; l++) y += a3[SYM3[l][k]] * h2[l] * real(COUNT[l]);
      g_u[k] = g + y * r[19] * real(3);
    }
  }

 private:
  static real one(real x) { return x; }
  static Dual<real> one(Dual<real> x) { return x; }
};
