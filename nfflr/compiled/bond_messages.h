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
static inline Dual<vec> operator*(vec x, Dual<real> y) { return {x * y.v, x * y.d}; }
static inline Dual<vec> operator*(vec x, Dual<vec> y) { return {x * y.v, x * y.d}; }

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

  // Adds to the received tensors. Rank 2 is x u + u x and the rest, rank 3 the symmetric sum of a matrix times u.
  void send(const T* r, T* m) const {
    m[0] += r[0] * h0, m[0] += r[1] * d, m[0] += r[2] * q;
    const T s1 = along(r + 3), s2 = along(r + 8) * real(0.5), s3 = along(r + 14) * real(1.0 / 3);
    T x[3], v[3], y[6];
    S twice[3];
    UNROLL for (int a = 0; a < 3; a++) {
      twice[a] = u[a] * real(2);
      m[1 + a] += s1 * u[a], m[1 + a] += r[6] * h1[a], m[1 + a] += r[7] * w[a];
      x[a] = s2 * u[a] + r[11] * h1[a] + r[12] * w[a];
      v[a] = (s3 * u[a] + r[17] * h1[a] + r[18] * w[a]) * real(0.5);
    }
    UNROLL for (int k = 0; k < 6; k++) {
      const int a = FIRST_AXIS[k], b = SECOND_AXIS[k];
      m[4 + k] += r[13] * h2[k];
      if (a == b) {
        m[4 + k] += x[a] * twice[a];
        y[k] = v[a] * twice[a] + r[19] * h2[k];
      } else {
        m[4 + k] += x[a] * u[b], m[4 + k] += x[b] * u[a];
        y[k] = v[a] * u[b] + v[b] * u[a] + r[19] * h2[k];
      }
    }
    UNROLL for (int k = 0; k < 10; k++) {
      const int a = AXES3[k][0], b = AXES3[k][1], c = AXES3[k][2];
      T& out = m[10 + k];
      if (a == c)
        out += y[SYM[a][a]] * (u[a] * real(3));
      else if (a == b)
        out += y[SYM[a][a]] * u[c], out += y[SYM[a][c]] * twice[a];
      else if (b == c)
        out += y[SYM[b][b]] * u[a], out += y[SYM[a][b]] * twice[b];
      else
        out += y[SYM[a][b]] * u[c], out += y[SYM[a][c]] * u[b], out += y[SYM[b][c]] * u[a];
    }
  }
};

// With a: the energy's gradient by the received tensors, each component divided by how often it occurs. What of it
// acts on one neighbour's message: its contractions with the unit vector and with what the neighbour sends.
template <class T, class S> struct Reply {
  const Neighbour<T, S>& x;
  const vec *a, *a1 = a + 1, *a2 = a + 4, *a3 = a + 10;
  T b[6], p2[3], p3[3], t[3], n[6], b1, b2, b3;  // b: a3·u, p2: 2 a2·u, p3: 3 b·u, t: a3:h2, n: h2 with counts

  Reply(const Neighbour<T, S>& neighbour, const vec* cotangent) : x(neighbour), a(cotangent) {
    const S* u = x.u;
    UNROLL for (int k = 0; k < 6; k++) {
      n[k] = COUNT[k] == 1 ? x.h2[k] : x.h2[k] * real(2);
      b[k] = a3[SYM3[k][0]] * u[0] + a3[SYM3[k][1]] * u[1] + a3[SYM3[k][2]] * u[2];
    }
    UNROLL for (int k = 0; k < 3; k++) {
      p2[k] = a2[SYM[k][0]] * u[0] + a2[SYM[k][1]] * u[1] + a2[SYM[k][2]] * u[2];
      p3[k] = b[SYM[k][0]] * u[0] + b[SYM[k][1]] * u[1] + b[SYM[k][2]] * u[2];
      t[k] = a3[SYM3[0][k]] * n[0];
      UNROLL for (int l = 1; l < 6; l++) t[k] += a3[SYM3[l][k]] * n[l];
    }
    b1 = a1[0] * u[0] + a1[1] * u[1] + a1[2] * u[2];
    b2 = p2[0] * u[0] + p2[1] * u[1] + p2[2] * u[2], b3 = p3[0] * u[0] + p3[1] * u[1] + p3[2] * u[2];
    UNROLL for (int k = 0; k < 3; k++) p2[k] = p2[k] * real(2), p3[k] = p3[k] * real(3);
  }

  template <class V> static T dot(const V* y, const T* z) { return y[0] * z[0] + y[1] * z[1] + y[2] * z[2]; }
  T scalars(const T* r) const { return a[0] * r[0] + b1 * r[3] + b2 * r[8] + b3 * r[14]; }
  T second() const {
    T sum = a2[0] * n[0];
    UNROLL for (int k = 1; k < 6; k++) sum += a2[k] * n[k];
    return sum;
  }
  T third() const { return (t[0] * x.u[0] + t[1] * x.u[1] + t[2] * x.u[2]) * real(3); }

  // Gradients by the radial functions.
  void by_radial(T* g) const {
    UNROLL for (int k = 0; k < 3; k++) {
      const T h = k == 0 ? x.h0 : k == 1 ? x.d : x.q;
      g[k] = a[0] * h, g[3 + k] = b1 * h, g[8 + k] = b2 * h, g[14 + k] = b3 * h;
    }
    g[6] = dot(a1, x.h1), g[11] = dot(p2, x.h1), g[17] = dot(p3, x.h1);
    g[7] = dot(a1, x.w), g[12] = dot(p2, x.w), g[18] = dot(p3, x.w);
    g[13] = second(), g[19] = third();
  }

  // The sum of these times s.
  T by_radial_times(const T* s) const {
    T sum = scalars(s) * x.h0 + scalars(s + 1) * x.d, other = scalars(s + 2) * x.q + second() * s[13];
    other += third() * s[19];
    UNROLL for (int k = 0; k < 3; k++) {
      sum += (a1[k] * s[6] + p2[k] * s[11] + p3[k] * s[17]) * x.h1[k];
      other += (a1[k] * s[7] + p2[k] * s[12] + p3[k] * s[18]) * x.w[k];
    }
    return sum + other;
  }

  // Adds to the gradients by what was sent, and writes those by the unit vector.
  void by_sent_and_unit(const T* r, T* g_h, T* g_u) const {
    const S* u = x.u;
    const T g_d = scalars(r + 1), g_q = scalars(r + 2);
    g_h[0] += a[0] * r[0], g_h[0] += b1 * r[3], g_h[0] += b2 * r[8], g_h[0] += b3 * r[14];
    T g_w[3];
    UNROLL for (int k = 0; k < 3; k++) {
      T& g = g_h[1 + k];
      g += g_d * u[k], g += a1[k] * r[6], g += p2[k] * r[11], g += p3[k] * r[17];
      g_w[k] = g_q * u[k] + a1[k] * r[7] + p2[k] * r[12] + p3[k] * r[18];
    }
    const T r19 = r[19] * real(3), double_13 = r[13] * real(2), double_19 = r[19] * real(6);
    UNROLL for (int k = 0; k < 6; k++) {
      const int i = FIRST_AXIS[k], j = SECOND_AXIS[k];
      T& g = g_h[4 + k];
      g += a2[k] * (i == j ? r[13] : double_13), g += b[k] * (i == j ? r19 : double_19), g += g_w[i] * u[j];
      if (i != j) g += g_w[j] * u[i];
    }
    const T s1 = x.along(r + 3), s2 = x.along(r + 8), s3 = x.along(r + 14) * real(0.5);
    T y[3], z[3];
    UNROLL for (int k = 0; k < 3; k++) {
      y[k] = (s2 * u[k] + r[11] * x.h1[k] + r[12] * x.w[k]) * real(2);
      z[k] = (s3 * u[k] + r[17] * x.h1[k] + r[18] * x.w[k]) * real(6);
    }
    UNROLL for (int k = 0; k < 3; k++) {
      T g = g_d * x.h1[k] + g_q * x.w[k] + a1[k] * s1 + t[k] * r19;
      UNROLL for (int l = 0; l < 3; l++)
        g += x.h2[SYM[k][l]] * g_w[l], g += a2[SYM[k][l]] * y[l], g += b[SYM[k][l]] * z[l];
      g_u[k] = g;
    }
  }
};
