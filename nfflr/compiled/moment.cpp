// Energy, forces and virial of the one-layer moment-tensor network (nfflr/models/moment.py) in one sweep.
//
// Atoms are taken in blocks of 8, whose bonds and features stay in cache from the forward to the reverse
// pass. Bonds are component-major, a vector register of neighbours at a time; moments are accumulated with
// the radial functions in a register; invariants are evaluated for a register of channels at a time.
//
// Given by the build: REAL, RADIAL (functions per bond), CHANNELS and HIDDEN (multiples of 16).
// Plain C interface; no header of torch is needed, so that a build takes seconds.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

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

constexpr int MONOMIALS = 20, INVARIANTS = 14, BLOCK = 8;
constexpr int ROWS = (RADIAL + 7) / 8, RADIAL_P = 8 * ROWS;
constexpr int FEATURES = INVARIANTS * CHANNELS;
constexpr int FIRST[5] = {0, 1, 4, 10, 20};  // monomials of each rank
#define UNROLL _Pragma("GCC unroll 32")
constexpr double PI = 3.14159265358979323846;

struct Model {  // as filled by moment.py
  int64_t n_elements, envelope, repulsion, n_numbers;
  double cutoff, scale, constant;
  const int64_t* element_index;  // (n_numbers,), −1 for elements that are not covered
  const double* numbers;         // (n,) Z
  const double* screening;       // (n,) Z^0.23 / 0.46850 Å
  const double* inner;           // (n, n) Å
  const double* outer;           // (n, n) Å
  const double* reference;       // (n,) eV
  const real* mix;               // (n, 4, RADIAL_P, CHANNELS), by the neighbour's element
  const real* mix_t;             // (n, 4, CHANNELS, RADIAL_P)
  const real* shift;             // (CHANNELS,) taken from the mixed scalars
  const real* gain;              // (n, 4, CHANNELS), by the centre's element
  const real* feature_shift;     // (FEATURES,)
  const real* hidden;            // (FEATURES, HIDDEN)
  const real* hidden_t;          // (HIDDEN, FEATURES)
  const real* bias;              // (n, HIDDEN)
  const real* readout;           // (HIDDEN,)
  const real* linear;            // (FEATURES,)
};

struct Structures {
  int64_t n_atoms, n_edges, n_structures;
  const double* positions;    // (N, 3) Å
  const int64_t* numbers;     // (N,)
  const int64_t* structure;   // (N,) or null
  const int64_t* src;         // (E,)
  const int64_t* dst;         // (E,) ascending
  const double* translation;  // (E, 3) Å
  const double* cell;         // (B, 3, 3) Å
};

struct Results {
  double* total;      // (B,) eV
  double* energies;   // (N,) eV
  double* forces;     // (N, 3) eV/Å
  double* stress;     // (B, 3, 3) eV/Å³, or null: not wanted
  int64_t* culprits;  // (2,) atoms that an error names
};

enum Status { DONE = 0, UNKNOWN_ELEMENT = 1, COINCIDENT = 2, NO_MEMORY = 3 };

// ---------------------------------------------------------------------------------------- vector arithmetic

static inline vec all(real x) { return x - vec{}; }
static inline vec load(const real* p) { return *reinterpret_cast<const vec*>(p); }
static inline void store(real* p, vec x) { *reinterpret_cast<vec*>(p) = x; }

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
  static constexpr float magic = 12582912.0f, largest = 87.0f;
};
template <> struct Bits<double> {
  typedef int64_t type;
  static constexpr int mantissa = 52, bias = 1023, degree = 13, sine = 11;
  static constexpr double magic = 6755399441055744.0, largest = 708.0;
};
using bits = Bits<real>;
typedef bits::type ivec __attribute__((vector_size(BYTES), may_alias));

// e^x by 2^n times the Taylor series on |f| ≤ ln(2)/2; x is limited to what neither over- nor underflows.
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

// ------------------------------------------------------------------------------------------ bonds of an atom

// Arrays of `capacity` slots each. Neighbours of one element follow one another, padded to full registers.
struct Bonds {
  enum { X, Y, Z, R, INVERSE, SLOPE, PHI, DPHI = PHI + RADIAL, COLUMNS = DPHI + RADIAL };
  real* data;
  int64_t capacity;
  int64_t* src;
  real* column(int c) const { return data + c * capacity; }
};

struct Run { int element, first, count; };  // neighbours of one element

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

static inline void monomials(vec x, vec y, vec z, vec* m) {
  m[0] = all(1);
  m[1] = x, m[2] = y, m[3] = z;
  m[4] = x * x, m[5] = x * y, m[6] = x * z, m[7] = y * y, m[8] = y * z, m[9] = z * z;
  m[10] = m[4] * x, m[11] = m[4] * y, m[12] = m[4] * z, m[13] = m[5] * y, m[14] = m[5] * z;
  m[15] = m[6] * z, m[16] = m[7] * y, m[17] = m[7] * z, m[18] = m[8] * z, m[19] = m[9] * z;
}

// Radial functions and screened repulsion of bonds between two elements.
struct Radial {
  real cutoff, steepness, wave, norm, strength, decays[4], shares[4], inner, width;
  int power;
  bool repulsion;

  Radial(const Model& m, int i, int j) {
    constexpr double SHARES[4] = {0.18175, 0.50986, 0.28022, 0.02817};
    constexpr double DECAYS[4] = {3.19980, 0.94229, 0.40290, 0.20162};
    const double p = m.envelope;
    cutoff = m.cutoff, power = m.envelope - 1, repulsion = m.repulsion;
    steepness = -p * (p + 1) * (p + 2) / (2 * m.cutoff), wave = PI / m.cutoff, norm = std::sqrt(2 / m.cutoff);
    strength = 14.399645478425668 * m.numbers[i] * m.numbers[j] / (2 * m.scale);
    for (int n = 0; n < 4; n++) {
      shares[n] = SHARES[n];
      decays[n] = DECAYS[n] * (m.screening[i] + m.screening[j]);
    }
    inner = m.inner[i * m.n_elements + j], width = m.outer[i * m.n_elements + j] - inner;
  }

  // Fills one register of bonds; returns their share of the repulsion.
  inline vec operator()(const Bonds& bonds, int64_t k) const {
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
        const vec term = exponential(-decays[n] * r) * shares[n];
        pair += term;
        d_pair -= term * decays[n];
      }
      const vec scaled = strength * inverse;
      pair *= scaled;
      energy = pair * value;
      d_energy = (d_pair * scaled - pair * inverse) * value + pair * slope;
      vec t = (r - inner) / width;  // the network fades in from 0 to 1
      t = t < real(0) ? all(0) : t;
      t = t > real(1) ? all(1) : t;
      const vec step = t * t * t * (real(10) - t * (real(15) - real(6) * t)), bell = t * (real(1) - t);
      slope = slope * step + value * (bell * bell * (real(30) / width));
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

// ---------------------------------------------------------------------------------------------- invariants

constexpr int M2[3][3] = {{0, 1, 2}, {1, 3, 4}, {2, 4, 5}};                          // component (a, b)
constexpr int T3[3][6] = {{0, 1, 2, 3, 4, 5}, {1, 3, 4, 6, 7, 8}, {2, 4, 5, 7, 8, 9}};  // component (a, bc)
constexpr int LEFT[6] = {0, 0, 0, 1, 1, 2}, RIGHT[6] = {0, 1, 2, 1, 2, 2};
constexpr int TIMES2[6] = {1, 2, 2, 1, 2, 1}, TIMES3[10] = {1, 3, 3, 3, 6, 3, 1, 3, 3, 1};

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

// ------------------------------------------------------------------------------------- one block of atoms

struct Block {
  const Model& m;
  const Structures& s;
  const int* elements;  // (N,) of all atoms
  Workspace& w;
  const int64_t first;  // atom
  const int size;
  int element[BLOCK];
  double repulsion[BLOCK];

  // Bonds of one atom shorter than the cutoff, from its candidates edge…last, grouped by element.
  Status gather(int a, int64_t edge, int64_t last, int64_t* culprits) {
    const int64_t i = first + a;
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
    if (nearest < 1e-12) return culprits[0] = i, COINCIDENT;

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
    for (int c = 0; c < CHANNELS; c++) tensors[c] = -m.shift[c];
    vec energy = all(0);
    alignas(64) real moments[MONOMIALS][RADIAL_P];
    for (const Run& run : w.runs[a]) {
      const Radial functions(m, element[a], run.element);
      for (int64_t k = 0; k < run.count; k += LANES) {
        const int64_t slot = run.first + k;
        energy += functions(bonds, slot);
        vec mono[MONOMIALS];
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
      const real* mix = m.mix + run.element * 4 * RADIAL_P * CHANNELS;
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
    if (m.n_elements == 1) return;
    const real* gain = m.gain + element[a] * 4 * CHANNELS;
    for (int rank = 0; rank < 4; rank++)
      for (int q = FIRST[rank]; q < FIRST[rank + 1]; q++)
        for (int c = 0; c < CHANNELS; c++) w.tensors[a][q * CHANNELS + c] *= gain[rank * CHANNELS + c];
  }

  // Atomic energies of the block; features are replaced by their gradients.
  void readout(double* energies) {
    for (int h = 0; h < HIDDEN; h += LANES) {
      vec sums[BLOCK];
      UNROLL for (int a = 0; a < BLOCK; a++) sums[a] = load(m.bias + element[a] * HIDDEN + h);
      for (int f = 0; f < FEATURES; f++) {
        const vec weight = load(m.hidden + f * HIDDEN + h);
        UNROLL for (int a = 0; a < BLOCK; a++) sums[a] += w.features[a][f] * weight;
      }
      UNROLL for (int a = 0; a < BLOCK; a++) store(w.hidden[a] + h, sums[a]);
    }
    for (int a = 0; a < size; a++) {
      vec energy = all(0);
      for (int f = 0; f < FEATURES; f += LANES) energy += load(w.features[a] + f) * load(m.linear + f);
      for (int h = 0; h < HIDDEN; h += LANES) {
        const vec x = load(w.hidden[a] + h), weight = load(m.readout + h);
        const vec sigmoid = real(1) / (real(1) + exponential(-x));
        energy += x * sigmoid * weight;
        store(w.hidden[a] + h, weight * sigmoid * (real(1) + x * (real(1) - sigmoid)));
      }
      const double raw = sum(energy) + m.constant + repulsion[a];
      energies[first + a] = raw * m.scale + m.reference[element[a]];
    }
    for (int f = 0; f < FEATURES; f += LANES) {
      vec sums[BLOCK];
      UNROLL for (int a = 0; a < BLOCK; a++) sums[a] = load(m.linear + f);
      for (int h = 0; h < HIDDEN; h++) {
        const vec weight = load(m.hidden_t + h * FEATURES + f);
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
      const real* mix = m.mix_t + run.element * 4 * CHANNELS * RADIAL_P;
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
    for (int axis = 0; axis < 3; axis++) forces[3 * (first + a) + axis] += scale * sum(total[axis]);
    if (virial) for (int k = 0; k < 6; k++) virial[k] += scale * sum(outer[k]);
  }

  // ∂E/∂r of one register of bonds, left in the columns of the first three radial slopes' place.
  void bond_gradients(const Bonds& bonds, int64_t k, const real (*gradient)[RADIAL_P], vec* total, vec* outer) {
    const vec ux = load(bonds.column(Bonds::X) + k), uy = load(bonds.column(Bonds::Y) + k);
    const vec uz = load(bonds.column(Bonds::Z) + k);
    vec mono[MONOMIALS], d_mono[MONOMIALS] = {};
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
    const vec* d = d_mono;
    const vec two = all(2), three = all(3);
    vec gx = d[1] + two * d[4] * ux + d[5] * uy + d[6] * uz + three * d[10] * mono[4] + two * (d[11] * mono[5] + d[12] * mono[6]) +
             d[13] * mono[7] + d[14] * mono[8] + d[15] * mono[9];
    vec gy = d[2] + d[5] * ux + two * d[7] * uy + d[8] * uz + d[11] * mono[4] + two * d[13] * mono[5] + d[14] * mono[6] +
             three * d[16] * mono[7] + two * d[17] * mono[8] + d[18] * mono[9];
    vec gz = d[3] + d[6] * ux + d[8] * uy + two * d[9] * uz + d[12] * mono[4] + d[14] * mono[5] + two * d[15] * mono[6] +
             d[17] * mono[7] + two * d[18] * mono[8] + three * d[19] * mono[9];
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

// Atoms begin…end; forces and virial are added to.
static Status sweep(const Model& m, const Structures& s, const int* elements, int64_t begin, int64_t end, double* energies, double* forces,
                    double* virial, int64_t* culprits) try {
  auto w = std::make_unique<Workspace>();
  w->counts.resize(m.n_elements);
  std::memset(w->features, 0, sizeof(w->features));
  int64_t edge = std::lower_bound(s.dst, s.dst + s.n_edges, begin) - s.dst;
  for (int64_t first = begin; first < end; first += BLOCK) {
    Block block{m, s, elements, *w, first, int(std::min<int64_t>(BLOCK, end - first)), {}, {}};
    int64_t bounds[BLOCK + 1] = {edge}, most = 0;
    for (int a = 0; a < block.size; a++) {
      while (edge < s.n_edges && s.dst[edge] == first + a) edge++;
      bounds[a + 1] = edge;
      most = std::max(most, edge - bounds[a]);
      block.element[a] = elements[first + a];
    }
    w->reserve(most + LANES * std::min(most, m.n_elements));
    for (int a = 0; a < block.size; a++) {
      const Status status = block.gather(a, bounds[a], bounds[a + 1], culprits);
      if (status != DONE) return status;
      block.forward(a);
    }
    block.readout(energies);
    for (int a = 0; a < block.size; a++) {
      const int64_t structure = s.structure ? s.structure[first + a] : 0;
      block.reverse(a, forces, virial ? virial + 6 * structure : nullptr);
    }
  }
  return DONE;
} catch (const std::bad_alloc&) {
  return NO_MEMORY;
}

// (1/V) times the virials xx yy zz yz xz xy, (B, 6); zero for a cell without volume (see Atoms.volumes).
static void fill_stress(const Structures& s, const double* virial, double* stress) {
  for (int64_t b = 0; b < s.n_structures; b++) {
    const double* h = s.cell + 9 * b;
    double edges = 1;
    for (int k = 0; k < 3; k++) edges *= std::sqrt(h[3 * k] * h[3 * k] + h[3 * k + 1] * h[3 * k + 1] + h[3 * k + 2] * h[3 * k + 2]);
    const double volume = std::fabs(h[0] * (h[4] * h[8] - h[5] * h[7]) - h[1] * (h[3] * h[8] - h[5] * h[6]) +
                                    h[2] * (h[3] * h[7] - h[4] * h[6]));
    const double factor = volume > 1e-9 * edges ? 1 / volume : 0;
    constexpr int VOIGT[9] = {0, 5, 4, 5, 1, 3, 4, 3, 2};
    for (int k = 0; k < 9; k++) stress[9 * b + k] = factor * virial[6 * b + VOIGT[k]];
  }
}

// All results are overwritten. Threads take consecutive atoms, and their sums are added in order, so that the
// same number of threads gives the same bits.
static Status evaluate(const Model& model, const Structures& s, const Results& out, int64_t n_threads) {
  std::vector<int> elements(s.n_atoms);
  for (int64_t i = 0; i < s.n_atoms; i++) {
    const int64_t z = s.numbers[i];
    elements[i] = z >= 0 && z < model.n_numbers ? model.element_index[z] : -1;
    if (elements[i] < 0) return UNKNOWN_ELEMENT;
  }
  const int64_t n_blocks = (s.n_atoms + BLOCK - 1) / BLOCK;
  const int64_t n = std::max<int64_t>(1, std::min(n_threads, n_blocks / 16));
  const int64_t n_virial = out.stress ? 6 * s.n_structures : 0;
  std::vector<std::vector<double>> forces(n - 1, std::vector<double>(3 * s.n_atoms));
  std::vector<std::vector<double>> virials(n, std::vector<double>(n_virial));
  std::vector<int64_t> culprits(2 * n);
  std::vector<Status> status(n);
  std::fill(out.forces, out.forces + 3 * s.n_atoms, 0.0);
  auto work = [&](int64_t t) {
    const int64_t begin = BLOCK * (t * n_blocks / n), end = std::min(s.n_atoms, BLOCK * ((t + 1) * n_blocks / n));
    status[t] = sweep(model, s, elements.data(), begin, end, out.energies, t ? forces[t - 1].data() : out.forces,
                      out.stress ? virials[t].data() : nullptr, &culprits[2 * t]);
  };
  std::vector<std::thread> threads;
  for (int64_t t = 1; t < n; t++) try {
      threads.emplace_back(work, t);
    } catch (const std::system_error&) {
      work(t);  // no thread to be had
    }
  work(0);
  for (auto& thread : threads) thread.join();
  for (int64_t t = 0; t < n; t++)
    if (status[t] != DONE) return std::copy_n(&culprits[2 * t], 2, out.culprits), status[t];
  for (const auto& extra : forces)
    for (int64_t k = 0; k < 3 * s.n_atoms; k++) out.forces[k] += extra[k];
  for (int64_t t = 1; t < n; t++)
    for (int64_t k = 0; k < n_virial; k++) virials[0][k] += virials[t][k];
  std::fill(out.total, out.total + s.n_structures, 0.0);
  for (int64_t i = 0; i < s.n_atoms; i++) out.total[s.structure ? s.structure[i] : 0] += out.energies[i];
  if (out.stress) fill_stress(s, virials[0].data(), out.stress);
  return DONE;
}

extern "C" int nfflr_moment(const Model* model, const Structures* s, const Results* out, int64_t n_threads) try {
  return evaluate(*model, *s, *out, n_threads);
} catch (const std::bad_alloc&) {
  return NO_MEMORY;
}
