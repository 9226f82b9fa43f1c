// One layer of the moment-tensor network with messages, forward and reverse, for a block of atoms of one element.
//
// Rows of the block's atoms lie side by side, so that each weight that is loaded serves all of them.
#pragma once

#include "message_bonds.h"
#include "pages.h"

constexpr int SCALARS = N_INVARIANTS * CHANNELS, VECTORS = N_VECTORS * CHANNELS, MATRICES = N_MATRICES * CHANNELS;
constexpr int GATES = 3 * MESSAGES;

struct Layer {  // what follows a layer's tensors, and, above the first, what makes them
  const real* mix;            // (4, MESSAGES, CHANNELS)
  const real* mix_t;          // (4, CHANNELS, MESSAGES)
  const real* mix_gain;       // (n, 4, MESSAGES)
  const real* mix_shift;      // (n, MESSAGES) taken from the received scalars
  const real* keep;           // (4, CHANNELS, CHANNELS)
  const real* keep_t;         // (4, CHANNELS, CHANNELS)
  const real* keep_gain;      // (n, 4, CHANNELS)
  const real* before;         // (HIDDEN, HIDDEN)
  const real* before_t;       // (HIDDEN, HIDDEN)
  const real* feature_shift;  // (n, SCALARS)
  const real* feature_scale;  // (n, SCALARS)
  const real* hidden;         // (n_own, SCALARS, HIDDEN)
  const real* hidden_t;       // (n_own, HIDDEN, SCALARS)
  const real* bias;           // (n, HIDDEN)
  const real* readout;        // (n_own, HIDDEN)
  const real* linear;         // (n_own, SCALARS)
  const double* constant;     // (n,)
};

struct Sender {  // what an atom sends after a layer
  const real* scalars;        // (SCALARS, MESSAGES)
  const real* scalars_t;      // (MESSAGES, SCALARS)
  const real* scalar_gain;    // (n, SCALARS)
  const real* bias;           // (n, MESSAGES)
  const real* vectors;        // (VECTORS, MESSAGES)
  const real* vectors_t;      // (MESSAGES, VECTORS)
  const real* vector_gain;    // (n, VECTORS)
  const real* matrices;       // (MATRICES, MESSAGES)
  const real* matrices_t;     // (MESSAGES, MATRICES)
  const real* matrix_gain;    // (n, MATRICES)
  const real* gate;           // (HIDDEN, GATES)
  const real* gate_t;         // (GATES, HIDDEN)
  const real* gate_gain;      // (n, HIDDEN)
  const real* radial;         // (RADIAL, PATHS, MESSAGES)
  const real* damping;        // (1,) by which the squares of an atom's features bound what it sends
};

struct Network {
  const Model* model;  // the first layer's moments
  int64_t n_layers;
  const Layer* layers;    // (n_layers,)
  const Sender* senders;  // (n_layers − 1,)
};

// What is kept of all atoms after a layer that is not the last: N rows each.
struct Kept {
  real *tensors, *activation, *slope, *ungated, *gates, *sent;  // of the layer
  real *cotangents;             // (RECEIVED, MESSAGES) by what the next layer received, divided by counts
  real *g_tensors, *g_activation;  // by way of the next layer
  real* radial;  // the sender's weights, REGISTERS of (RADIAL, PATHS)
  real* bound;   // (N,) factor of what an atom sends
};

// y (BLOCK, OUT) = x (BLOCK, K) w (K, OUT), or += if ADD.
template <int K, int OUT, bool ADD = false> static inline void multiply(const real* x, const real* w, real* y) {
  constexpr int PAIR = OUT % (2 * LANES) ? 1 : 2;
  for (int o = 0; o < OUT; o += PAIR * LANES) {
    vec sums[BLOCK][PAIR] = {};
    for (int k = 0; k < K; k++) {
      vec weight[PAIR];
      UNROLL for (int p = 0; p < PAIR; p++) weight[p] = load(w + k * OUT + o + p * LANES);
      UNROLL for (int a = 0; a < BLOCK; a++) {
        const vec value = all(x[a * K + k]);
        UNROLL for (int p = 0; p < PAIR; p++) sums[a][p] += value * weight[p];
      }
    }
    UNROLL for (int a = 0; a < BLOCK; a++)
      UNROLL for (int p = 0; p < PAIR; p++) {
        real* out = y + a * OUT + o + p * LANES;
        store(out, ADD ? load(out) + sums[a][p] : sums[a][p]);
      }
  }
}

static inline int rank_of(int component) { return component < 1 ? 0 : component < 4 ? 1 : component < 10 ? 2 : 3; }

// Removes the traces of unique components x (20 · stride) of a register of channels.
static inline void remove_traces(vec* x) {
  const vec trace = (x[4] + x[7] + x[9]) * real(1.0 / 3);
  x[4] -= trace, x[7] -= trace, x[9] -= trace;
  vec traces[3];
  UNROLL for (int a = 0; a < 3; a++)
    traces[a] = (x[10 + SYM3[0][a]] + x[10 + SYM3[3][a]] + x[10 + SYM3[5][a]]) * real(1.0 / 5);
  UNROLL for (int k = 0; k < 10; k++) {
    const int a = AXES3[k][0], b = AXES3[k][1], c = AXES3[k][2];
    if (a == b) x[10 + k] -= traces[c];
    if (a == c) x[10 + k] -= traces[b];
    if (b == c) x[10 + k] -= traces[a];
  }
}

static inline vec unique_count(int component) {
  return all(component < 4 ? 1 : component < 10 ? COUNT[component - 4] : COUNT3[component - 10]);
}

struct Desk {  // of one thread
  explicit Desk(const Model& m) : first(m) {}
  Workspace first;
  std::vector<Memory> bonds;  // of all its atoms, in ever larger slabs
  int64_t slab = 1 << 18, left = 0, slope_size = 0;
  char* place = nullptr;
  Memory slope_memory;
  real* slopes = nullptr;
  alignas(64) real tensors[TENSORS][BLOCK][CHANNELS], gradient[TENSORS][BLOCK][CHANNELS];
  alignas(64) real received[RECEIVED][BLOCK][MESSAGES], message[RECEIVED * MESSAGES];
  alignas(64) real features[BLOCK][SCALARS], weighted[BLOCK][SCALARS];
  alignas(64) real vectors[3][BLOCK][VECTORS], matrices[6][BLOCK][MATRICES];
  alignas(64) real hidden[BLOCK][HIDDEN], slope[BLOCK][HIDDEN], other[BLOCK][HIDDEN];
  alignas(64) real gates[BLOCK][GATES], sent[SENT][BLOCK][MESSAGES];
  real by_bound[BLOCK];  // gradient by features, relative to these, by way of the bound

  char* take(int64_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > left) {
      slab = left = std::max(bytes, std::min<int64_t>(2 * slab, 1 << 26));
      bonds.push_back(allocate(left));
      place = bonds.back().get();
    }
    char* p = place;
    return place += bytes, left -= bytes, p;
  }
  void reserve_slopes(int64_t capacity) {
    if (4 * capacity <= slope_size) return;
    slope_size = 8 * capacity;
    slope_memory = allocate(slope_size * sizeof(real));
    slopes = reinterpret_cast<real*>(slope_memory.get());
  }
};

struct LayerBlock {
  const Network& net;
  const Structures& s;
  const int* elements;  // (N,) of all atoms
  const int8_t* need;   // (N,) the last layer at which an atom is needed
  const Kept* kept;     // of each layer but the last
  KeptBonds* bonds;     // (N,)
  Desk& d;
  const int64_t* atoms;
  const int size, element, k;  // k: the layer
  const Model& m = *net.model;
  const Layer& layer = net.layers[k];
  const int64_t own = m.own(element);
  const bool last = k == net.n_layers - 1;

  real counts(int a) const { return atoms[a] < s.n_local ? 1 : 0; }  // whether its energy does

  // The first layer's tensors.
  Status moments(const std::vector<int64_t>& edges, double* raw, int64_t* culprits) {
    Block block{m, s, elements, d.first, atoms, size, own};
    int64_t most = 0;
    for (int a = 0; a < size; a++) most = std::max(most, edges[atoms[a] + 1] - edges[atoms[a]]);
    d.first.reserve(most + LANES);
    for (int a = 0; a < size; a++) {
      const Status status = block.gather(a, edges[atoms[a]], edges[atoms[a] + 1], culprits);
      if (status != DONE) return status;
      block.moments_to_tensors(a);
      for (int q = 0; q < TENSORS; q++) std::copy_n(d.first.tensors[a] + q * CHANNELS, CHANNELS, d.tensors[q][a]);
      raw[atoms[a]] = block.repulsion[a];
      keep_bonds(a);
    }
    return DONE;
  }

  void keep_bonds(int a) {
    const Bonds from = d.first.of(a);
    KeptBonds& to = bonds[atoms[a]];
    to.neighbours = d.first.neighbours[a];
    constexpr int STEP = LANES > TILE ? LANES : TILE;
    const int64_t end = (to.neighbours.count + STEP - 1) / STEP * STEP;
    const int columns = Bonds::WEIGHTS + (to.neighbours.weighted ? to.neighbours.sets : 0);
    to.bonds.capacity = end;
    to.bonds.data = reinterpret_cast<real*>(d.take(columns * end * sizeof(real)));
    to.bonds.src = reinterpret_cast<int64_t*>(d.take(end * sizeof(int64_t)));
    for (int c = 0; c < columns; c++) std::copy_n(from.column(c), end, to.bonds.column(c));
    if (!counts(a)) std::fill_n(to.bonds.column(Bonds::SLOPE), end, real(0));  // of the repulsion
    std::copy_n(from.src, end, to.bonds.src);
  }

  // Tensors of a later layer, from what neighbours sent and from those before.
  void receive_messages() {
    const Kept& before = kept[k - 1];
    for (int a = 0; a < size; a++) {
      receive(bonds[atoms[a]], before.radial, before.sent, d.message);
      const real *gain = layer.mix_gain + element * 4 * MESSAGES, *shift = layer.mix_shift + element * MESSAGES;
      for (int c = 0; c < MESSAGES; c += LANES) {
        vec x[RECEIVED];
        UNROLL for (int q = 0; q < RECEIVED; q++) x[q] = load(d.message + c * RECEIVED + q * LANES);
        remove_traces(x);
        x[0] -= load(shift + c);
        UNROLL for (int q = 0; q < RECEIVED; q++)
          store(d.received[q][a] + c, x[q] * load(gain + rank_of(q) * MESSAGES + c));
      }
      const real* tensors = before.tensors + atoms[a] * TENSORS * CHANNELS;
      gain = layer.keep_gain + element * 4 * CHANNELS;
      for (int q = 0; q < TENSORS; q++)
        for (int c = 0; c < CHANNELS; c += LANES)
          store(d.gradient[q][a] + c, load(tensors + q * CHANNELS + c) * load(gain + rank_of(q) * CHANNELS + c));
    }
    for (int q = 0; q < TENSORS; q++) {
      multiply<CHANNELS, CHANNELS>(d.gradient[q][0], layer.keep + rank_of(q) * CHANNELS * CHANNELS, d.tensors[q][0]);
      multiply<MESSAGES, CHANNELS, true>(d.received[q][0], layer.mix + rank_of(q) * MESSAGES * CHANNELS, d.tensors[q][0]);
    }
  }

  // The block's gradients by the layer's tensors go on to what the layer before sent and kept.
  void reverse_messages() {
    const Kept& before = kept[k - 1];
    for (int q = 0; q < TENSORS; q++) {
      multiply<CHANNELS, CHANNELS>(d.gradient[q][0], layer.keep_t + rank_of(q) * CHANNELS * CHANNELS, d.tensors[q][0]);
      multiply<CHANNELS, MESSAGES>(d.gradient[q][0], layer.mix_t + rank_of(q) * MESSAGES * CHANNELS, d.received[q][0]);
    }
    for (int a = 0; a < size; a++) {
      const real* gain = layer.keep_gain + element * 4 * CHANNELS;
      real* g_tensors = before.g_tensors + atoms[a] * TENSORS * CHANNELS;
      for (int q = 0; q < TENSORS; q++)
        for (int c = 0; c < CHANNELS; c += LANES)
          store(g_tensors + q * CHANNELS + c, load(d.tensors[q][a] + c) * load(gain + rank_of(q) * CHANNELS + c));
      gain = layer.mix_gain + element * 4 * MESSAGES;
      real* cotangents = before.cotangents + atoms[a] * RECEIVED * MESSAGES;
      for (int c = 0; c < MESSAGES; c += LANES) {
        vec x[RECEIVED];
        UNROLL for (int q = 0; q < RECEIVED; q++)
          x[q] = load(d.received[q][a] + c) * load(gain + rank_of(q) * MESSAGES + c) * (real(1) / unique_count(q));
        remove_traces(x);
        UNROLL for (int q = 0; q < RECEIVED; q++) store(cotangents + c * RECEIVED + q * LANES, x[q]);
      }
    }
  }

  // Products of the tensors, each with its scale; vectors and matrices only if they are sent.
  template <bool ALL> void evaluate_products() {
    const real *shift = layer.feature_shift + element * SCALARS, *scale = layer.feature_scale + element * SCALARS;
    for (int a = 0; a < size; a++)
      for (int c = 0; c < CHANNELS; c += LANES) {
        vec x[SLOTS];
        load_tensors(a, c, x), products<ALL>(x);
        UNROLL for (int f = 0; f < N_INVARIANTS; f++) {
          const int place = f * CHANNELS + c;
          store(d.features[a] + place, (x[TENSORS + f] - load(shift + place)) * load(scale + place));
        }
        if (!ALL) continue;
        const Sender& sender = net.senders[k];
        const real *gain = sender.vector_gain + element * VECTORS + c, *other = sender.matrix_gain + element * MATRICES + c;
        UNROLL for (int f = 0; f < N_VECTORS; f++) UNROLL for (int q = 0; q < 3; q++)
          store(d.vectors[q][a] + f * CHANNELS + c, x[Terms::vec_slot(f, q)] * load(gain + f * CHANNELS));
        UNROLL for (int f = 0; f < N_MATRICES; f++) UNROLL for (int q = 0; q < 6; q++)
          store(d.matrices[q][a] + f * CHANNELS + c, x[Terms::mat_slot(f, q)] * load(other + f * CHANNELS));
      }
  }

  // From gradients by the products to those by the tensors, which are added to what `gradient` holds.
  template <bool ALL> void reverse_all_products() {
    const real *shift = layer.feature_shift + element * SCALARS, *scale = layer.feature_scale + element * SCALARS;
    for (int a = 0; a < size; a++)
      for (int c = 0; c < CHANNELS; c += LANES) {
        vec x[SLOTS], g[SLOTS] = {};
        load_tensors(a, c, x), products<ALL>(x);
        UNROLL for (int f = 0; f < N_INVARIANTS; f++)
          g[TENSORS + f] = load(d.features[a] + f * CHANNELS + c) * load(scale + f * CHANNELS + c);
        if (ALL) {
          UNROLL for (int f = 0; f < N_INVARIANTS; f++) {
            const vec size = load(scale + f * CHANNELS + c);
            g[TENSORS + f] += d.by_bound[a] * (x[TENSORS + f] - load(shift + f * CHANNELS + c)) * size * size;
          }
          const Sender& sender = net.senders[k];
          const real *gain = sender.vector_gain + element * VECTORS + c, *other = sender.matrix_gain + element * MATRICES + c;
          UNROLL for (int f = 0; f < N_VECTORS; f++) UNROLL for (int q = 0; q < 3; q++)
            g[Terms::vec_slot(f, q)] = load(d.vectors[q][a] + f * CHANNELS + c) * load(gain + f * CHANNELS);
          UNROLL for (int f = 0; f < N_MATRICES; f++) UNROLL for (int q = 0; q < 6; q++)
            g[Terms::mat_slot(f, q)] = load(d.matrices[q][a] + f * CHANNELS + c) * load(other + f * CHANNELS);
        }
        reverse_products<ALL>(x, g);
        for (int q = 0; q < TENSORS; q++) {
          real* out = d.gradient[q][a] + c;
          store(out, ALL ? load(out) + g[q] : g[q]);
        }
      }
  }

  void load_tensors(int a, int c, vec* x) const {
    UNROLL for (int q = 0; q < TENSORS; q++) x[q] = load(d.tensors[q][a] + c);
  }

  // Hidden features, their slopes, and raw atomic energies, which are added to.
  void read_out(double* raw) {
    multiply<SCALARS, HIDDEN>(d.features[0], layer.hidden + own * SCALARS * HIDDEN, d.hidden[0]);
    if (k) {
      for (int a = 0; a < size; a++) std::copy_n(kept[k - 1].activation + atoms[a] * HIDDEN, HIDDEN, d.other[a]);
      multiply<HIDDEN, HIDDEN, true>(d.other[0], layer.before, d.hidden[0]);
    }
    const real *bias = layer.bias + element * HIDDEN, *linear = layer.linear + own * SCALARS;
    const real* readout = layer.readout + own * HIDDEN;
    for (int a = 0; a < size; a++) {
      vec energy = all(0);
      for (int f = 0; f < SCALARS; f += LANES) energy += load(d.features[a] + f) * load(linear + f);
      for (int h = 0; h < HIDDEN; h += LANES) {
        const vec x = load(d.hidden[a] + h) + load(bias + h), sigmoid = real(1) / (real(1) + exponential(-x));
        store(d.hidden[a] + h, x * sigmoid);
        store(d.slope[a] + h, sigmoid * (real(1) + x * (real(1) - sigmoid)));
        energy += x * sigmoid * load(readout + h);
      }
      raw[atoms[a]] += sum(energy) + layer.constant[element];
    }
  }

  // With gradients by way of later layers in `other` (hidden features) and `features`, both set to zero where
  // there are none: gradients by all features.
  void reverse_read_out() {
    const real *readout = layer.readout + own * HIDDEN, *linear = layer.linear + own * SCALARS;
    for (int a = 0; a < size; a++) {
      const real count = counts(a);
      for (int h = 0; h < HIDDEN; h += LANES)
        store(d.hidden[a] + h, (load(d.other[a] + h) + load(readout + h) * count) * load(d.slope[a] + h));
      for (int f = 0; f < SCALARS; f += LANES)
        store(d.features[a] + f, load(d.features[a] + f) + load(linear + f) * count);
    }
    multiply<HIDDEN, SCALARS, true>(d.hidden[0], layer.hidden_t + own * SCALARS * HIDDEN, d.features[0]);
    if (!k) return;
    multiply<HIDDEN, HIDDEN>(d.hidden[0], layer.before_t, d.other[0]);
    for (int a = 0; a < size; a++) std::copy_n(d.other[a], HIDDEN, kept[k - 1].g_activation + atoms[a] * HIDDEN);
  }

  // What the atoms send, and what the reverse needs of them.
  void send() {
    const Sender& sender = net.senders[k];
    const Kept& keep = kept[k];
    const real *gain = sender.scalar_gain + element * SCALARS, *gate_gain = sender.gate_gain + element * HIDDEN;
    for (int a = 0; a < size; a++) {
      for (int f = 0; f < SCALARS; f += LANES) store(d.weighted[a] + f, load(d.features[a] + f) * load(gain + f));
      for (int h = 0; h < HIDDEN; h += LANES) store(d.other[a] + h, load(d.hidden[a] + h) * load(gate_gain + h));
    }
    multiply<SCALARS, MESSAGES>(d.weighted[0], sender.scalars, d.sent[0][0]);
    for (int q = 0; q < 3; q++) multiply<VECTORS, MESSAGES>(d.vectors[q][0], sender.vectors, d.sent[1 + q][0]);
    for (int q = 0; q < 6; q++) multiply<MATRICES, MESSAGES>(d.matrices[q][0], sender.matrices, d.sent[4 + q][0]);
    multiply<HIDDEN, GATES>(d.other[0], sender.gate, d.gates[0]);
    const real* bias = sender.bias + element * MESSAGES;
    for (int a = 0; a < size; a++) {
      real *ungated = keep.ungated + atoms[a] * SENT * MESSAGES, *sent = keep.sent + atoms[a] * SENT * MESSAGES;
      real* gates = keep.gates + atoms[a] * GATES;
      vec squares = all(0);
      for (int f = 0; f < SCALARS; f += LANES) squares += load(d.features[a] + f) * load(d.features[a] + f);
      const real bound = keep.bound[atoms[a]] = 1 / std::sqrt(1 + *sender.damping * sum(squares));
      for (int c = 0; c < MESSAGES; c += LANES) {
        vec x[SENT], gate[3];
        UNROLL for (int q = 0; q < 3; q++) store(gates + q * MESSAGES + c, gate[q] = load(d.gates[a] + q * MESSAGES + c) + real(1));
        UNROLL for (int q = 0; q < SENT; q++) {
          x[q] = load(d.sent[q][a] + c);
          if (q == 0) x[q] += load(bias + c);
          store(ungated + q * MESSAGES + c, x[q]);
          x[q] *= gate[rank_of(q)] * bound;
        }
        const vec trace = (x[4] + x[7] + x[9]) * real(1.0 / 3);
        x[4] -= trace, x[7] -= trace, x[9] -= trace;
        UNROLL for (int q = 0; q < SENT; q++) store(sent + c * SENT + q * LANES, x[q]);
      }
      for (int q = 0; q < TENSORS; q++)
        std::copy_n(d.tensors[q][a], CHANNELS, keep.tensors + (atoms[a] * TENSORS + q) * CHANNELS);
      std::copy_n(d.hidden[a], HIDDEN, keep.activation + atoms[a] * HIDDEN);
      std::copy_n(d.slope[a], HIDDEN, keep.slope + atoms[a] * HIDDEN);
    }
  }

  // Gradients by what neighbours made of what the atoms sent; forces and virial are added to.
  void reverse_send(double* forces, double* virial) {
    const Sender& sender = net.senders[k];
    const Kept& keep = kept[k];
    for (int a = 0; a < size; a++) {
      const int64_t i = atoms[a];
      d.reserve_slopes(bonds[i].bonds.capacity);
      const Echo echo{bonds[i], keep.radial, keep.sent + i * SENT * MESSAGES, keep.cotangents, need, k + 1, d.message, d.slopes};
      echo.run();
      echo.push(i, m.scale, forces, virial ? virial + 6 * (s.structure ? s.structure[i] : 0) : nullptr);
      const real *ungated = keep.ungated + i * SENT * MESSAGES, *gates = keep.gates + i * GATES;
      const real bound = keep.bound[i];
      vec g_bound = all(0);
      for (int c = 0; c < MESSAGES; c += LANES) {
        vec g[SENT], g_gate[3] = {};
        UNROLL for (int q = 0; q < SENT; q++) g[q] = load(d.message + c * SENT + q * LANES);
        const vec trace = (g[4] + g[7] + g[9]) * real(1.0 / 3);
        g[4] -= trace, g[7] -= trace, g[9] -= trace;
        UNROLL for (int q = 0; q < SENT; q++) {
          const vec x = load(ungated + q * MESSAGES + c), gate = load(gates + rank_of(q) * MESSAGES + c);
          g_bound += g[q] * x * gate;
          g_gate[rank_of(q)] += g[q] * x * bound;
          store(d.sent[q][a] + c, g[q] * gate * bound);
        }
        UNROLL for (int q = 0; q < 3; q++) store(d.gates[a] + q * MESSAGES + c, g_gate[q]);
      }
      d.by_bound[a] = -*sender.damping * bound * bound * bound * sum(g_bound);
    }
    multiply<MESSAGES, SCALARS>(d.sent[0][0], sender.scalars_t, d.features[0]);
    for (int q = 0; q < 3; q++) multiply<MESSAGES, VECTORS>(d.sent[1 + q][0], sender.vectors_t, d.vectors[q][0]);
    for (int q = 0; q < 6; q++) multiply<MESSAGES, MATRICES>(d.sent[4 + q][0], sender.matrices_t, d.matrices[q][0]);
    multiply<GATES, HIDDEN>(d.gates[0], sender.gate_t, d.other[0]);
    const real *gain = sender.scalar_gain + element * SCALARS, *gate_gain = sender.gate_gain + element * HIDDEN;
    for (int a = 0; a < size; a++) {
      const int64_t i = atoms[a];
      // An atom that only sends has no later layer of its own.
      const real later = need[i] > k;
      for (int f = 0; f < SCALARS; f += LANES) store(d.features[a] + f, load(d.features[a] + f) * load(gain + f));
      for (int h = 0; h < HIDDEN; h += LANES) {
        vec g = load(d.other[a] + h) * load(gate_gain + h);
        if (later) g += load(keep.g_activation + i * HIDDEN + h);
        store(d.other[a] + h, g);
      }
      std::copy_n(keep.slope + i * HIDDEN, HIDDEN, d.slope[a]);
      for (int q = 0; q < TENSORS; q++) {
        std::copy_n(keep.tensors + (i * TENSORS + q) * CHANNELS, CHANNELS, d.tensors[q][a]);
        if (later)
          std::copy_n(keep.g_tensors + (i * TENSORS + q) * CHANNELS, CHANNELS, d.gradient[q][a]);
        else
          std::fill_n(d.gradient[q][a], CHANNELS, real(0));
      }
    }
  }

  // The last layer's gradients begin with the energies.
  void begin_reverse() {
    std::memset(d.other, 0, sizeof(d.other));
    std::memset(d.features, 0, sizeof(d.features));
  }

  void reverse_moments(double* forces, double* virial) {
    Block block{m, s, elements, d.first, atoms, size, own};
    for (int a = 0; a < size; a++) {
      const KeptBonds& kept_bonds = bonds[atoms[a]];
      d.first.reserve(kept_bonds.count() + LANES);
      for (int q = 0; q < TENSORS; q++) std::copy_n(d.gradient[q][a], CHANNELS, d.first.tensors[a] + q * CHANNELS);
      block.reverse_tensors(a, kept_bonds.bonds, kept_bonds.neighbours, forces,
                            virial ? virial + 6 * (s.structure ? s.structure[atoms[a]] : 0) : nullptr);
    }
  }

  Status forward(const std::vector<int64_t>& edges, double* raw, int64_t* culprits) {
    if (k)
      receive_messages();
    else if (const Status status = moments(edges, raw, culprits); status != DONE)
      return status;
    last ? evaluate_products<false>() : evaluate_products<true>();
    read_out(raw);
    if (!last) send();
    return DONE;
  }

  void reverse(double* forces, double* virial) {
    last ? begin_reverse() : reverse_send(forces, virial);
    reverse_read_out();
    last ? reverse_all_products<false>() : reverse_all_products<true>();
    k ? reverse_messages() : reverse_moments(forces, virial);
  }
};
