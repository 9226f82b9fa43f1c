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

enum Status { DONE = 0, UNKNOWN_ELEMENT = 1, COINCIDENT = 2, NO_MEMORY = 3, ONE_WAY = 4 };

// How moments become channels: a matrix for one set of radial functions or several, next to one another.
struct Mixing {
  int64_t sets, functions, width;  // width: functions filled up
  const real* mix;                 // (4, functions, CHANNELS)
  const real* mix_t;               // (4, CHANNELS, width)

  Mixing(const real* matrices, const real* transposes, int64_t which, int64_t sets)
      : sets(sets), functions(sets * RADIAL), width(filled(functions)) {
    mix = matrices + which * 4 * functions * CHANNELS, mix_t = transposes + which * 4 * CHANNELS * width;
  }
};

struct Neighbours {  // of one atom
  int64_t count = 0, sets = 0;
  bool weighted = false;  // the columns Bonds::WEIGHTS say how much each bond counts in each set
  std::vector<Mixing> mixings;
};

struct Workspace {
  int64_t capacity = 0;
  const int64_t columns;  // of an atom's bonds
  real *bonds = nullptr, *pairs = nullptr, *rows = nullptr, *slopes = nullptr;
  int64_t* src = nullptr;
  int* element = nullptr;  // of the bonds of the atom at hand
  Neighbours neighbours[BLOCK];
  std::vector<int> set;         // by the neighbour's element, −1 where there is none
  std::vector<std::unique_ptr<char[]>> memory;
  std::vector<real> moments, gradient;  // of the atom at hand, (functions, HARMONICS)
  alignas(64) real tensors[BLOCK][MONOMIALS * CHANNELS];
  alignas(64) real features[BLOCK][FEATURES];
  alignas(64) real hidden[BLOCK][HIDDEN];

  explicit Workspace(const Model& m) : columns(Bonds::WEIGHTS + filled(m.n_embedding)) {
    set.resize(m.n_elements);
    moments.resize(m.n_embedding * RADIAL * HARMONICS);
    gradient.resize((m.n_embedding * RADIAL + 16) * HARMONICS);  // written in full registers of functions
    std::memset(features, 0, sizeof(features));
  }
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
    bonds = take<real>(BLOCK * columns * capacity);
    src = take<int64_t>(BLOCK * capacity);
    pairs = take<real>(4 * capacity);
    rows = take<real>(HARMONICS * capacity);
    slopes = take<real>(3 * capacity);
    element = take<int>(capacity);
    std::fill_n(element, capacity, 0);
  }
  Bonds of(int a) const { return {bonds + a * columns * capacity, capacity, src + a * capacity}; }
};

struct Block {  // of atoms that share their weights
  const Model& m;
  const Structures& s;
  const int* elements;  // (N,) of all atoms
  Workspace& w;
  const int64_t* atoms;
  const int size;
  const int64_t own;  // whose weights
  double repulsion[BLOCK];

  int element(int a) const { return elements[atoms[a]]; }

  // Bonds of one atom shorter than the cutoff, from its candidates edge…last.
  Status gather(int a, int64_t edge, int64_t last, int64_t* culprits) {
    const int64_t i = atoms[a];
    const double *x = s.positions, xi = x[3 * i], yi = x[3 * i + 1], zi = x[3 * i + 2];
    const double limit = m.cutoff * m.cutoff;
    double nearest = limit;
    const Bonds bonds = w.of(a);
    real *bx = bonds.column(Bonds::X), *by = bonds.column(Bonds::Y), *bz = bonds.column(Bonds::Z);
    int64_t n = 0;
    for (; edge < last; edge++) {
      const int64_t j = s.src[edge];
      const double* shift = s.translation + 3 * edge;
      const double dx = x[3 * j] + shift[0] - xi, dy = x[3 * j + 1] + shift[1] - yi;
      const double dz = x[3 * j + 2] + shift[2] - zi, square = dx * dx + dy * dy + dz * dz;
      bx[n] = dx, by[n] = dy, bz[n] = dz, bonds.src[n] = j;  // kept only if counted
      n += square < limit;
      if (square < nearest) nearest = square, culprits[1] = j;
    }
    if (nearest < 1e-6) return culprits[0] = i, COINCIDENT;  // graph.COINCIDENT squared
    choose_sets(a, n);
    const int64_t end = pad(bonds, n);
    real *r = bonds.column(Bonds::R), *inverse = bonds.column(Bonds::INVERSE);
    for (int64_t k = 0; k < end; k += LANES) {
      const vec px = load(bx + k), py = load(by + k), pz = load(bz + k), square = px * px + py * py + pz * pz;
      for (int l = 0; l < LANES; l++) r[k + l] = std::sqrt(square[l]);
      const vec inv = real(1) / load(r + k);
      store(inverse + k, inv), store(bx + k, px * inv), store(by + k, py * inv), store(bz + k, pz * inv);
    }
    return DONE;
  }

  // An atom has a set of moments for each element among its neighbours. Where there are as many elements as the
  // embedding has channels, or more, it has a set for each channel instead, whose moments cost less to mix.
  void choose_sets(int a, int64_t n) {
    const Bonds bonds = w.of(a);
    Neighbours& neighbours = w.neighbours[a];
    auto& mixings = neighbours.mixings;
    mixings.clear();
    neighbours.count = n;
    const int64_t full = (n + LANES - 1) / LANES * LANES;
    if (m.n_elements > 1) {  // else w.element holds zeros
      for (int64_t k = 0; k < n; k++) w.element[k] = elements[bonds.src[k]];
      std::fill(w.element + n, w.element + full, w.element[0]);
      look_up(&m.pairs[element(a) * m.n_elements].strength, 4, full, w.pairs);
    }
    std::fill(w.set.begin(), w.set.end(), -1);
    const size_t most = std::max<int64_t>(2, m.n_embedding);
    for (int64_t k = 0; k < n && mixings.size() < most; k++) {
      const int z = w.element[k];
      if (w.set[z] >= 0) continue;
      w.set[z] = mixings.size();
      mixings.emplace_back(m.mix, m.mix_t, own * m.n_elements + z, 1);
    }
    neighbours.sets = mixings.size(), neighbours.weighted = mixings.size() > 1;
    const bool embedded = mixings.size() == most;
    if (embedded) mixings.assign(1, {m.joint, m.joint_t, own, neighbours.sets = m.n_embedding});
    if (neighbours.weighted) fill_weights(bonds, full, neighbours.sets, embedded);
  }

  // A bond counts in the set of its element alone, or in the set of each channel by its element's embedding.
  void fill_weights(const Bonds& bonds, int64_t n, int64_t sets, bool embedded) {
    if (embedded)
      for (int64_t set = 0; set < sets; set += 4)
        look_up(m.embedding + set, filled(sets), n, bonds.column(Bonds::WEIGHTS + set));
    else
      for (int64_t set = 0; set < sets; set++)
        for (int64_t k = 0; k < n; k++) bonds.column(Bonds::WEIGHTS + set)[k] = w.set[w.element[k]] == set;
  }

  // Four numbers for each bond, by the neighbour's element, into four columns.
  void look_up(const real* table, int64_t stride, int64_t n, real* columns) const {
    for (int64_t k = 0; k < n; k += LANES) {
      real rows[LANES][4];
      for (int l = 0; l < LANES; l++) std::copy_n(table + w.element[k + l] * stride, 4, rows[l]);
      vec x[4];
      std::memcpy(x, rows, sizeof(x));
      transpose<4>(x);
      for (int c = 0; c < 4; c++) store(columns + c * w.capacity + k, x[c]);
    }
  }

  Pairs constants(int64_t k) const {
    const real* columns = w.pairs + k;
    const int64_t step = w.capacity;
    return {load(columns), load(columns + step), load(columns + 2 * step), load(columns + 3 * step)};
  }

  // Fills the last register with bonds as long as the cutoff, where all functions vanish.
  int64_t pad(const Bonds& bonds, int64_t n) const {
    for (; n % LANES; n++) {
      bonds.column(Bonds::X)[n] = m.cutoff;
      bonds.column(Bonds::Y)[n] = bonds.column(Bonds::Z)[n] = 0;
    }
    return n;
  }

  void forward(int a) {
    moments_to_tensors(a);
    invariants(w.tensors[a], m.feature_shift, w.features[a]);
  }

  // Mixed traceless tensors (MONOMIALS, CHANNELS) of one atom.
  void moments_to_tensors(int a) {
    real* tensors = w.tensors[a];
    std::fill(tensors, tensors + MONOMIALS * CHANNELS, real(0));
    for (int c = 0; c < CHANNELS; c++) tensors[c] = -m.shift[own * CHANNELS + c];
    evaluate_bonds(a);
    const Neighbours& neighbours = w.neighbours[a];
    for (int64_t set = 0; set < neighbours.sets; set++) accumulate(w.of(a), neighbours, set);
    const real* moments = w.moments.data();
    for (const Mixing& mixing : neighbours.mixings) {
      mix(mixing, moments, tensors);
      moments += mixing.functions * HARMONICS;
    }
    apply_gain(a);
    complete_traces(tensors);
  }

  // Radial functions into the columns of the bonds, harmonics into rows (bonds, HARMONICS), and the repulsion.
  void evaluate_bonds(int a) {
    const Bonds bonds = w.of(a);
    const Radial functions(m);
    const bool same = m.n_elements == 1;
    const Pairs pair = spread(m.pairs[0]);
    vec energy = all(0);
    for (int64_t k = 0; k < w.neighbours[a].count; k += LANES) {
      energy += functions(bonds, k, same ? pair : constants(k));
      vec h[HARMONICS] = {all(1)};
      harmonics(load(bonds.column(Bonds::X) + k), load(bonds.column(Bonds::Y) + k), load(bonds.column(Bonds::Z) + k), h);
      UNROLL for (int q = 0; q < HARMONICS; q += LANES) {
        transpose<LANES>(h + q);
        UNROLL for (int l = 0; l < LANES; l++) store(w.rows + (k + l) * HARMONICS + q, h[q + l]);
      }
    }
    repulsion[a] = sum(energy);
  }

  // Moments (RADIAL, HARMONICS) of one set.
  void accumulate(const Bonds& bonds, const Neighbours& neighbours, int64_t set) const {
    const real* weights = neighbours.weighted ? bonds.column(Bonds::WEIGHTS + set) : nullptr;
    real* moments = w.moments.data() + set * RADIAL * HARMONICS;
    UNROLL for (int first = 0; first < RADIAL; first += 8) UNROLL for (int q = 0; q < HARMONICS; q += LANES) {
      vec sums[8] = {};
      const real* phi = bonds.column(Bonds::PHI + first);
      for (int64_t k = 0; k < neighbours.count; k++) {
        vec h = load(w.rows + k * HARMONICS + q);
        if (weights) h *= weights[k];
        UNROLL for (int n = 0; n < 8; n++) if (first + n < RADIAL) sums[n] += phi[n * w.capacity + k] * h;
      }
      UNROLL for (int n = 0; n < 8; n++)
        if (first + n < RADIAL) store(moments + (first + n) * HARMONICS + q, sums[n]);
    }
  }

  // Adds to the tensors what moments (functions, HARMONICS) give.
  void mix(const Mixing& mixing, const real* moments, real* tensors) const {
    for (int c = 0; c < CHANNELS; c += LANES) {
      vec sums[HARMONICS];
      UNROLL for (int q = 0; q < HARMONICS; q++) sums[q] = load(tensors + TENSOR[q] * CHANNELS + c);
      for (int f = 0; f < mixing.functions; f++) UNROLL for (int rank = 0; rank < 4; rank++) {
        const vec weight = load(mixing.mix + (rank * mixing.functions + f) * CHANNELS + c);
        UNROLL for (int q = FIRST_HARMONIC[rank]; q < FIRST_HARMONIC[rank + 1]; q++)
          sums[q] += moments[f * HARMONICS + q] * weight;
      }
      UNROLL for (int q = 0; q < HARMONICS; q++) store(tensors + TENSOR[q] * CHANNELS + c, sums[q]);
    }
  }

  // The reverse of `mix`: gradients (functions, HARMONICS) by the moments.
  void mix_back(const Mixing& mixing, const real* tensors, real* gradient) const {
    for (int f = 0; f < mixing.functions; f += LANES) {
      vec sums[HARMONICS] = {};
      for (int c = 0; c < CHANNELS; c++) UNROLL for (int rank = 0; rank < 4; rank++) {
        const vec weight = load(mixing.mix_t + (rank * CHANNELS + c) * mixing.width + f);
        UNROLL for (int q = FIRST_HARMONIC[rank]; q < FIRST_HARMONIC[rank + 1]; q++)
          sums[q] += tensors[TENSOR[q] * CHANNELS + c] * weight;
      }
      UNROLL for (int q = 0; q < HARMONICS; q += LANES) {
        transpose<LANES>(sums + q);
        UNROLL for (int l = 0; l < LANES; l++) store(gradient + (f + l) * HARMONICS + q, sums[q + l]);
      }
    }
  }

  void apply_gain(int a) {
    if (m.n_own == m.n_elements) return;
    const real* gain = m.gain + element(a) * 4 * CHANNELS;
    for (int rank = 0; rank < 4; rank++)
      for (int q = FIRST[rank]; q < FIRST[rank + 1]; q++)
        for (int c = 0; c < CHANNELS; c++) w.tensors[a][q * CHANNELS + c] *= gain[rank * CHANNELS + c];
  }

  void readout(double* energies) {
    if (size > BLOCK / 2) readout_of<BLOCK>(energies);
    else readout_of<BLOCK / 2>(energies);
  }

  // Atomic energies of the block; features are replaced by their gradients. WIDTH: size or more.
  template <int WIDTH> void readout_of(double* energies) {
    const real *hidden = m.hidden + own * FEATURES * HIDDEN, *hidden_t = m.hidden_t + own * FEATURES * HIDDEN;
    const real *linear = m.linear + own * FEATURES, *last = m.readout + own * HIDDEN;
    const real* bias[WIDTH];
    for (int a = 0; a < WIDTH; a++) bias[a] = m.bias + element(std::min(a, size - 1)) * HIDDEN;
    for (int h = 0; h < HIDDEN; h += LANES) {
      vec sums[WIDTH];
      UNROLL for (int a = 0; a < WIDTH; a++) sums[a] = load(bias[a] + h);
      for (int f = 0; f < FEATURES; f++) {
        const vec weight = load(hidden + (h / 16 * FEATURES + f) * 16 + h % 16);
        UNROLL for (int a = 0; a < WIDTH; a++) sums[a] += w.features[a][f] * weight;
      }
      UNROLL for (int a = 0; a < WIDTH; a++) store(w.hidden[a] + h, sums[a]);
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
      energies[atoms[a]] = raw * m.scale + m.reference[element(a)];
    }
    for (int f = 0; f < FEATURES; f += LANES) {
      vec sums[WIDTH];
      UNROLL for (int a = 0; a < WIDTH; a++) sums[a] = load(linear + f);
      for (int h = 0; h < HIDDEN; h++) {
        const vec weight = load(hidden_t + (f / 16 * HIDDEN + h) * 16 + f % 16);
        UNROLL for (int a = 0; a < WIDTH; a++) sums[a] += w.hidden[a][h] * weight;
      }
      UNROLL for (int a = 0; a < WIDTH; a++) store(w.features[a] + f, sums[a]);
    }
  }

  // Adds to forces (N, 3) and to the virial (6,) of the atom's structure.
  void reverse(int a, double* forces, double* virial) {
    pull_back_invariants(w.tensors[a], w.features[a]);
    reverse_tensors(a, w.of(a), w.neighbours[a], forces, virial);
  }

  // Of gradients by the tensors.
  void reverse_tensors(int a, const Bonds& bonds, const Neighbours& neighbours, double* forces, double* virial) {
    real* tensors = w.tensors[a];
    fold_traces(tensors);
    apply_gain(a);
    real* gradient = w.gradient.data();
    for (const Mixing& mixing : neighbours.mixings) {
      mix_back(mixing, tensors, gradient);
      gradient += mixing.functions * HARMONICS;
    }
    for (int64_t k = 0; k < neighbours.count; k += LANES) bond_slopes(bonds, k, neighbours);
    add_bonds(bonds, atoms[a], neighbours.count, forces, virial);
  }

  // ∂E/∂r of one register of bonds, into w.slopes.
  void bond_slopes(const Bonds& bonds, int64_t k, const Neighbours& neighbours) const {
    const vec ux = load(bonds.column(Bonds::X) + k), uy = load(bonds.column(Bonds::Y) + k);
    const vec uz = load(bonds.column(Bonds::Z) + k), inverse = load(bonds.column(Bonds::INVERSE) + k);
    vec h[HARMONICS] = {all(1)}, d_h[HARMONICS] = {}, g[3], d_r = load(bonds.column(Bonds::SLOPE) + k);
    harmonics(ux, uy, uz, h);
    const real* gradient = w.gradient.data();
    for (int set = 0; set < neighbours.sets; set++, gradient += RADIAL * HARMONICS) {
      vec along = all(0);
      for (int n = 0; n < RADIAL; n++) {
        vec d_phi = all(0);
        UNROLL for (int q = 0; q < HARMONICS; q++) d_phi += gradient[n * HARMONICS + q] * h[q];
        along += d_phi * load(bonds.column(Bonds::DPHI + n) + k);
      }
      d_r += neighbours.weighted ? along * load(bonds.column(Bonds::WEIGHTS + set) + k) : along;
    }
    gradient = w.gradient.data();
    for (int set = 0; set < neighbours.sets; set++, gradient += RADIAL * HARMONICS)
      for (int n = 0; n < RADIAL; n++) {
        vec phi = load(bonds.column(Bonds::PHI + n) + k);
        if (neighbours.weighted) phi *= load(bonds.column(Bonds::WEIGHTS + set) + k);
        UNROLL for (int q = 0; q < HARMONICS; q++) d_h[q] += gradient[n * HARMONICS + q] * phi;
      }
    pull_back_harmonics(d_h, ux, uy, uz, g);
    const vec radial = d_r - (g[0] * ux + g[1] * uy + g[2] * uz) * inverse;
    store(w.slopes + k, g[0] * inverse + radial * ux);
    store(w.slopes + w.capacity + k, g[1] * inverse + radial * uy);
    store(w.slopes + 2 * w.capacity + k, g[2] * inverse + radial * uz);
  }

  // Forces and virial of all n bonds of an atom.
  void add_bonds(const Bonds& bonds, int64_t atom, int64_t n, double* forces, double* virial) const {
    const real *dx = w.slopes, *dy = dx + w.capacity, *dz = dy + w.capacity;
    vec total[3] = {}, outer[6] = {};
    for (int64_t k = 0; k < n; k += LANES) {
      const vec gx = load(dx + k), gy = load(dy + k), gz = load(dz + k), r = load(bonds.column(Bonds::R) + k);
      const vec x = r * load(bonds.column(Bonds::X) + k), y = r * load(bonds.column(Bonds::Y) + k);
      const vec z = r * load(bonds.column(Bonds::Z) + k);
      total[0] += gx, total[1] += gy, total[2] += gz;
      outer[0] += x * gx, outer[1] += y * gy, outer[2] += z * gz;
      outer[3] += real(0.5) * (y * gz + z * gy), outer[4] += real(0.5) * (x * gz + z * gx);
      outer[5] += real(0.5) * (x * gy + y * gx);
    }
    const double scale = m.scale;
    for (int axis = 0; axis < 3; axis++) forces[3 * atom + axis] += scale * sum(total[axis]);
    if (virial) for (int k = 0; k < 6; k++) virial[k] += scale * sum(outer[k]);
    for (int64_t k = 0; k < n; k++) {
      double* f = forces + 3 * bonds.src[k];
      f[0] -= scale * dx[k], f[1] -= scale * dy[k], f[2] -= scale * dz[k];
    }
  }
};
