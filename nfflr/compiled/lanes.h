// Arithmetic on one register of numbers at a time, whatever its width on the machine at hand.
//
// GCC's and Clang's vector extensions, so that no instruction set is named. REAL is given by the build.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#define UNROLL _Pragma("GCC unroll 32")

using real = REAL;

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;
#endif
constexpr int LANES = BYTES / sizeof(real);
typedef real vec __attribute__((vector_size(BYTES), may_alias));
typedef real row __attribute__((vector_size(8 * sizeof(real)), may_alias));  // eight radial functions
typedef real unaligned __attribute__((vector_size(BYTES), may_alias, aligned(sizeof(real))));

constexpr double PI = 3.14159265358979323846;

static inline vec all(real x) { return x - vec{}; }
static inline vec load(const real* p) { return *reinterpret_cast<const unaligned*>(p); }
static inline void store(real* p, vec x) { *reinterpret_cast<unaligned*>(p) = x; }

static inline double sum(vec x) {
  double total = 0;
  real half[LANES];
  std::memcpy(half, &x, sizeof(x));
  for (int width = LANES / 2; width; width /= 2)
    for (int k = 0; k < width; k++) half[k] += half[k + width];
  total = half[0];
  return total;
}

template <class T> struct Bits;
template <> struct Bits<float> {
  typedef int32_t type;
  static constexpr int mantissa = 23, bias = 127, degree = 7, sine = 7;
  static constexpr float magic = 12582912.0f, largest = 60.0f;
};
template <> struct Bits<double> {
  typedef int64_t type;
  static constexpr int mantissa = 52, bias = 1023, degree = 13, sine = 11;
  static constexpr double magic = 6755399441055744.0, largest = 600.0;
};
using bits = Bits<real>;
typedef bits::type ivec __attribute__((vector_size(BYTES), may_alias));

// a[FIRST], b[FIRST], a[FIRST + 1], b[FIRST + 1], …
template <int FIRST, std::size_t... K> static inline vec interleave(vec a, vec b, std::index_sequence<K...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, (K % 2 * LANES + FIRST + K / 2)...);
#else
  return __builtin_shuffle(a, b, ivec{bits::type(K % 2 * LANES + FIRST + K / 2)...});
#endif
}

// Rows (LANES, COLUMNS) into columns (COLUMNS, LANES), in place; COLUMNS is a power of two.
template <int COLUMNS> static inline void transpose(vec* x) {
  constexpr auto lanes = std::make_index_sequence<LANES>();
UNROLL
  for (int step = 1; step < LANES; step *= 2) {
    vec y[COLUMNS];
UNROLL
    for (int k = 0; k < COLUMNS / 2; k++) {
      y[2 * k] = interleave<0>(x[k], x[k + COLUMNS / 2], lanes);
      y[2 * k + 1] = interleave<LANES / 2>(x[k], x[k + COLUMNS / 2], lanes);
    }
UNROLL
    for (int k = 0; k < COLUMNS; k++) x[k] = y[k];
  }
}

// e^x by 2^n times the Taylor series on |f| ≤ ln(2)/2; x is limited so that results times small
// numbers are no denormal ones either, which take a hundred times longer.
static inline vec exponential(vec x) {
  x = x > bits::largest ? all(bits::largest) : x;
  x = x < -bits::largest ? all(-bits::largest) : x;
  vec shifted = x * real(1.4426950408889634) + bits::magic;  // rounds to an integer in the low bits
  vec n = shifted - bits::magic;
  vec f = x - n * real(0.693145751953125) - n * real(1.42860682030941723212e-6);
  vec series = all(1);
UNROLL
  for (int k = bits::degree; k > 0; k--) series = series * f * real(1.0 / k) + real(1);
  ivec power = reinterpret_cast<ivec&>(shifted) << bits::mantissa;  // drops all but n
  power += bits::type(bits::bias) << bits::mantissa;
  return series * reinterpret_cast<vec&>(power);
}

// sin and cos of 0 ≤ x ≤ π by their Taylor series about π/2.
static inline void sine_cosine(vec x, vec& sine, vec& cosine) {
  vec y = x - real(PI / 2), q = y * y, s = all(1), c = all(1);
UNROLL
  for (int k = bits::sine; k > 0; k--) {
    s = real(1) - s * q * real(1.0 / (2 * k * (2 * k + 1)));
    c = real(1) - c * q * real(1.0 / ((2 * k - 1) * 2 * k));
  }
  sine = c;
  cosine = -y * s;
}
