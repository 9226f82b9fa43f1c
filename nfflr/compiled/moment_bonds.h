// Weights of the moment-tensor network, and what is computed bond by bond: radial functions, monomials.
#pragma once

#include "lanes.h"

constexpr int MONOMIALS = 20, HARMONICS = 16, INVARIANTS = 14, BLOCK = 8;
constexpr int ROWS = (RADIAL + 7) / 8, RADIAL_P = 8 * ROWS;
constexpr int FEATURES = INVARIANTS * CHANNELS;
constexpr int64_t filled(int64_t width) { return (width + 15) / 16 * 16; }  // to the widest register
constexpr int FIRST[5] = {0, 1, 4, 10, 20};          // monomials of each rank
constexpr int FIRST_HARMONIC[5] = {0, 1, 4, 9, 16};  // and their independent traceless combinations

struct Pair {  // constants of bonds between two elements
  real strength;   // of the repulsion, of which each atom has half, in units of the model's scale times Å
  real screening;  // 1/Å
  real inner;      // Å where the network fades in
  real fade;       // 1/Å, one over the width of that
};

struct Model {  // as filled by moment.py
  int64_t n_elements, n_own, n_embedding, envelope, repulsion, n_numbers;  // n_own: sets of weights, n_elements or 1
  double cutoff, scale;
  const int64_t* element_index;  // (n_numbers,), −1 for elements that are not covered
  const Pair* pairs;             // (n, n) by centre and neighbour
  const double* reference;       // (n,) eV
  const real* embedding;         // (n, n_embedding filled up) of neighbours
  const real* mix;               // (n_own, n, 4, RADIAL, CHANNELS), by centre and neighbour
  const real* mix_t;             // (n_own, n, 4, CHANNELS, RADIAL filled up)
  const real* joint;             // (n_own, 4, n_embedding · RADIAL, CHANNELS), before an embedding is chosen
  const real* joint_t;           // (n_own, 4, CHANNELS, n_embedding · RADIAL filled up)
  const real* shift;             // (n_own, CHANNELS) taken from the mixed scalars
  const real* gain;              // (n, 4, CHANNELS), by the centre's element
  const real* feature_shift;     // (FEATURES,)
  const real* hidden;            // (n_own, HIDDEN / 16, FEATURES, 16), in the order in which they are read
  const real* hidden_t;          // (n_own, FEATURES / 16, HIDDEN, 16)
  const real* bias;              // (n, HIDDEN)
  const real* readout;           // (n_own, HIDDEN)
  const real* linear;            // (n_own, FEATURES)
  const double* constant;        // (n_own,)

  int64_t own(int element) const { return n_own == 1 ? 0 : element; }
};

// Arrays of `capacity` slots each, filled to full registers; behind these columns come weights.
struct Bonds {
  enum { X, Y, Z, R, INVERSE, SLOPE, PHI, DPHI = PHI + RADIAL, WEIGHTS = DPHI + RADIAL };
  real* data;
  int64_t capacity;
  int64_t* src;
  real* column(int c) const { return data + c * capacity; }
};

// Of single numbers, or of registers of them; m[0], which is one, is the caller's.
template <class T> static inline void monomials(T x, T y, T z, T* m) {
  m[1] = x, m[2] = y, m[3] = z;
  m[4] = x * x, m[5] = x * y, m[6] = x * z, m[7] = y * y, m[8] = y * z, m[9] = z * z;
  m[10] = m[4] * x, m[11] = m[4] * y, m[12] = m[4] * z, m[13] = m[5] * y, m[14] = m[5] * z;
  m[15] = m[6] * z, m[16] = m[7] * y, m[17] = m[7] * z, m[18] = m[8] * z, m[19] = m[9] * z;
}

// Gradient by the unit vector, given the gradient d by the monomials m.
template <class T> static inline void pull_back(const T* d, const T* m, T* g) {
  constexpr real two = 2, three = 3;
  const T x = m[1], y = m[2], z = m[3];
  g[0] = d[1] + two * d[4] * x + d[5] * y + d[6] * z + three * d[10] * m[4] + two * (d[11] * m[5] + d[12] * m[6]) +
         d[13] * m[7] + d[14] * m[8] + d[15] * m[9];
  g[1] = d[2] + d[5] * x + two * d[7] * y + d[8] * z + d[11] * m[4] + two * d[13] * m[5] + d[14] * m[6] +
         three * d[16] * m[7] + two * d[17] * m[8] + d[18] * m[9];
  g[2] = d[3] + d[6] * x + d[8] * y + two * d[9] * z + d[12] * m[4] + d[14] * m[5] + two * d[15] * m[6] +
         d[17] * m[7] + two * d[18] * m[8] + three * d[19] * m[9];
}

// What takes the place of the monomials where tensors are traceless: xx − 1/3, xxx − 3/5 x, xxy − y/5, …
// Those with zz follow from the others. h[0], which is one, is the caller's.
static inline void harmonics(vec x, vec y, vec z, vec* h) {
  const vec xx = x * x, yy = y * y, xy = x * y, a = xx - real(0.2), b = yy - real(0.2);
  h[1] = x, h[2] = y, h[3] = z;
  h[4] = xx - real(1.0 / 3), h[5] = xy, h[6] = x * z, h[7] = yy - real(1.0 / 3), h[8] = y * z;
  h[9] = x * (xx - real(0.6)), h[10] = y * a, h[11] = z * a, h[12] = x * b, h[13] = xy * z;
  h[14] = y * (yy - real(0.6)), h[15] = z * b;
}

// Gradient g by the unit vector, given the gradient d by the harmonics.
static inline void pull_back_harmonics(const vec* d, vec x, vec y, vec z, vec* g) {
  constexpr real two = 2, three = 3;
  const vec a = x * x - real(0.2), b = y * y - real(0.2), xy = x * y, xz = x * z, yz = y * z;
  g[0] = d[1] + two * d[4] * x + d[5] * y + d[6] * z + (three * d[9]) * a + two * (d[10] * xy + d[11] * xz) +
         d[12] * b + d[13] * yz;
  g[1] = d[2] + d[5] * x + two * d[7] * y + d[8] * z + d[10] * a + d[13] * xz + two * (d[12] * xy + d[15] * yz) +
         (three * d[14]) * b;
  g[2] = d[3] + d[6] * x + d[8] * y + d[11] * a + d[13] * xy + d[15] * b;
}

struct Pairs { vec strength, screening, inner, fade; };  // of a register of bonds

static inline Pairs spread(const Pair& p) { return {all(p.strength), all(p.screening), all(p.inner), all(p.fade)}; }

// Radial functions and screened repulsion.
struct Radial {
  real cutoff, steepness, wave, norm;
  int power;
  bool repulsion;

  explicit Radial(const Model& m) {
    const double p = m.envelope;
    cutoff = m.cutoff, power = m.envelope - 1, repulsion = m.repulsion;
    steepness = -p * (p + 1) * (p + 2) / (2 * m.cutoff), wave = PI / m.cutoff, norm = std::sqrt(2 / m.cutoff);
  }

  // Fills one register of bonds; returns their share of the repulsion.
  inline vec operator()(const Bonds& bonds, int64_t k, const Pairs& p) const {
    constexpr real SHARES[4] = {0.18175, 0.50986, 0.28022, 0.02817};
    constexpr real DECAYS[4] = {3.19980, 0.94229, 0.40290, 0.20162};
    const vec r = load(bonds.column(Bonds::R) + k), inverse = load(bonds.column(Bonds::INVERSE) + k);
    vec x = r / cutoff;
    x = x > real(1) ? all(1) : x;
    // The envelope as (1 − x)³ Σ_k (k + 1)(k + 2)/2 x^k, k < p: free of the cancellation near x = 1.
    vec raised = all(1), series = all(1);
    for (int k = 1; k <= power; k++) {
      raised *= x;  // x^(p − 1) in the end
      series += raised * real((k + 1) * (k + 2) / 2);
    }
    const vec square = (real(1) - x) * (real(1) - x);
    vec value = square * (real(1) - x) * series;
    vec slope = raised * square * steepness;
    vec energy = all(0), d_energy = all(0);
    if (repulsion) {
      vec pair = all(0), d_pair = all(0);
      UNROLL for (int n = 0; n < 4; n++) {
        const vec decay = DECAYS[n] * p.screening, term = exponential(-decay * r) * SHARES[n];
        pair += term;
        d_pair -= term * decay;
      }
      const vec scaled = p.strength * inverse;
      pair *= scaled;
      energy = pair * value;
      d_energy = (d_pair * scaled - pair * inverse) * value + pair * slope;
      vec t = (r - p.inner) * p.fade;  // the network fades in from 0 to 1
      t = t < real(0) ? all(0) : t;
      t = t > real(1) ? all(1) : t;
      const vec step = t * t * t * (real(10) - t * (real(15) - real(6) * t)), bell = t * (real(1) - t);
      slope = slope * step + value * (bell * bell * (real(30) * p.fade));
      value *= step;
    }
    store(bonds.column(Bonds::SLOPE) + k, d_energy);
    value *= norm * inverse;
    slope = slope * (norm * inverse) - value * inverse;
    vec s1, c1;
    sine_cosine(r * wave, s1, c1);
    vec s = s1, co = c1;
    UNROLL for (int n = 0; n < RADIAL; n++) {
      store(bonds.column(Bonds::PHI + n) + k, value * s);
      store(bonds.column(Bonds::DPHI + n) + k, value * (real(n + 1) * wave) * co + slope * s);
      const vec next = s * c1 + co * s1;  // a rotation: its rounding errors grow least
      co = co * c1 - s * s1;
      s = next;
    }
    return energy;
  }
};
