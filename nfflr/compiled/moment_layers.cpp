// Energy, forces and virial of the moment-tensor network with several layers (nfflr/models/moment.py).
//
// Each layer is one pass over blocks of up to 8 atoms of one element. The last layer's pass turns round at once;
// then the layers before follow in reverse. An atom collects the gradients by what it sent from its neighbours, so
// that no two threads write to one place, except for forces, of which each thread has its own.
//
// Given by the build: REAL, RADIAL (functions per bond), CHANNELS, MESSAGES and HIDDEN (multiples of 16).

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "message_block.h"
#include "results.h"

struct Blocks {  // atoms of one layer, those of one element together
  std::vector<int64_t> order, begin;
};

// What is known of the atoms before the passes.
struct Plan {
  std::vector<int> elements;    // (N,)
  std::vector<int64_t> edges;   // (N + 1,) where the candidates of each atom begin
  std::vector<int8_t> need;     // (N,) the last layer at which an atom is needed; −1: never
  std::vector<Blocks> layers;

  Status make(const Network& net, const Structures& s) {
    const Model& m = *net.model;
    elements.resize(s.n_atoms), edges.assign(s.n_atoms + 1, 0);
    for (int64_t i = 0; i < s.n_atoms; i++) {
      const int64_t z = s.numbers[i];
      elements[i] = z >= 0 && z < m.n_numbers ? m.element_index[z] : -1;
      if (elements[i] < 0) return UNKNOWN_ELEMENT;
    }
    for (int64_t e = 0; e < s.n_edges; e++) edges[s.dst[e] + 1]++;
    for (int64_t i = 0; i < s.n_atoms; i++) edges[i + 1] += edges[i];
    find_need(net, s);
    if (!both_ways(s)) return ONE_WAY;
    for (int64_t k = 0; k < net.n_layers; k++) layers.push_back(blocks(m, k));
    return DONE;
  }

  void find_need(const Network& net, const Structures& s) {
    need.assign(s.n_atoms, -1);
    std::fill_n(need.begin(), s.n_local, net.n_layers - 1);
    if (s.n_local == s.n_atoms) return;
    for (int k = net.n_layers - 1; k > 0; k--)
      for (int64_t e = 0; e < s.n_edges; e++)
        if (need[s.dst[e]] == k && need[s.src[e]] < k - 1 && is_near(*net.model, s, e)) need[s.src[e]] = k - 1;
  }

  static bool is_near(const Model& m, const Structures& s, int64_t e) {
    double square = 0;
    for (int k = 0; k < 3; k++) {
      const double x = s.positions[3 * s.src[e] + k] + s.translation[3 * e + k] - s.positions[3 * s.dst[e] + k];
      square += x * x;
    }
    return square < m.cutoff * m.cutoff;
  }

  // Whether the list has every bond along which there are messages in both directions, by sums over both.
  bool both_ways(const Structures& s) const {
    uint64_t difference = 0;
    for (int64_t e = 0; e < s.n_edges; e++) {
      const int64_t i = s.dst[e], j = s.src[e];
      if (need[i] > 0) difference += mixed(i, j);
      if (need[j] > 0) difference -= mixed(j, i);
    }
    return difference == 0;
  }

  static uint64_t mixed(uint64_t i, uint64_t j) {
    const uint64_t x = (i * 0x9E3779B97F4A7C15u) ^ (j * 0xC2B2AE3D27D4EB4Fu);
    return (x ^ (x >> 29)) * 0xBF58476D1CE4E5B9u;
  }

  Blocks blocks(const Model& m, int k) const {
    std::vector<int64_t> first(m.n_elements + 1, 0);
    Blocks made;
    for (size_t i = 0; i < need.size(); i++)
      if (need[i] >= k) first[elements[i] + 1]++;
    for (int64_t z = 0; z < m.n_elements; z++) {
      first[z + 1] += first[z];
      for (int64_t b = first[z]; b < first[z + 1]; b += BLOCK) made.begin.push_back(b);
    }
    made.begin.push_back(first.back());
    made.order.resize(first.back());
    for (size_t i = 0; i < need.size(); i++)
      if (need[i] >= k) made.order[first[elements[i]]++] = i;
    return made;
  }
};

struct Evaluation {
  const Network& net;
  const Structures& s;
  const Results& out;
  const int64_t n_threads;
  Plan plan;
  std::vector<Memory> memory;
  std::vector<Kept> kept;
  std::vector<KeptBonds> bonds;
  std::vector<std::unique_ptr<Desk>> desks;
  std::vector<std::vector<double>> forces, virials;
  std::vector<double> raw;
  std::vector<int64_t> culprits;
  std::vector<Status> status;

  real* take(int64_t size) {
    memory.push_back(allocate(size * sizeof(real)));
    return reinterpret_cast<real*>(memory.back().get());
  }
  real* rows(int64_t width) { return take(s.n_atoms * width); }

  real* by_register(const real* weight) {
    real* out = take(RADIAL * PATHS * MESSAGES);
    for (int k = 0; k < RADIAL * PATHS; k++)
      for (int c = 0; c < MESSAGES; c++) out[(c / LANES * RADIAL * PATHS + k) * LANES + c % LANES] = weight[k * MESSAGES + c];
    return out;
  }

  Status run() {
    if (const Status state = plan.make(net, s); state != DONE) return state;
    const int64_t n_blocks = plan.layers[0].begin.size() - 1;
    const int64_t n = std::max<int64_t>(1, std::min(n_threads, n_blocks / 4));
    for (int64_t k = 0; k + 1 < net.n_layers; k++)
      kept.push_back({rows(TENSORS * CHANNELS), rows(HIDDEN), rows(HIDDEN), rows(SENT * MESSAGES), rows(GATES),
                      rows(SENT * MESSAGES), rows(RECEIVED * MESSAGES), rows(TENSORS * CHANNELS), rows(HIDDEN),
                      by_register(net.senders[k].radial), rows(1)});
    bonds.resize(s.n_atoms), raw.assign(s.n_atoms, 0.0), desks.resize(n), culprits.resize(2 * n);
    forces.assign(n - 1, std::vector<double>(3 * s.n_atoms));
    virials.assign(n, std::vector<double>(out.stress ? 6 * s.n_structures : 0));
    std::fill(out.forces, out.forces + 3 * s.n_atoms, 0.0);
    for (int k = 0; k < net.n_layers; k++)
      if (const Status state = pass(k, true, k + 1 == net.n_layers); state != DONE) return state;
    for (int k = net.n_layers - 2; k >= 0; k--)
      if (const Status state = pass(k, false, true); state != DONE) return state;
    finish();
    return DONE;
  }

  // Threads take consecutive blocks, and their sums are added in order: the same number gives the same bits.
  Status pass(int k, bool forward, bool reverse) {
    const int64_t n = desks.size(), n_blocks = plan.layers[k].begin.size() - 1;
    status.assign(n, DONE);
    auto work = [&](int64_t t) { status[t] = sweep(k, t, t * n_blocks / n, (t + 1) * n_blocks / n, forward, reverse); };
    in_threads(n, work);
    for (int64_t t = 0; t < n; t++)
      if (status[t] != DONE) return std::copy_n(&culprits[2 * t], 2, out.culprits), status[t];
    return DONE;
  }

  Status sweep(int k, int64_t t, int64_t first, int64_t last, bool forward, bool reverse) try {
    if (!desks[t]) desks[t].reset(new Desk(*net.model));
    double* pushed = t ? forces[t - 1].data() : out.forces;
    double* virial = out.stress ? virials[t].data() : nullptr;
    const Blocks& all = plan.layers[k];
    for (int64_t b = first; b < last; b++) {
      const int64_t* atoms = all.order.data() + all.begin[b];
      LayerBlock block{net, s, plan.elements.data(), plan.need.data(), kept.data(), bonds.data(), *desks[t],
                       atoms, int(all.begin[b + 1] - all.begin[b]), plan.elements[*atoms], k};
      if (forward) {
        const Status state = block.forward(plan.edges, raw.data(), &culprits[2 * t]);
        if (state != DONE) return state;
      }
      if (reverse) block.reverse(pushed, virial);
    }
    return DONE;
  } catch (const std::bad_alloc&) {
    return NO_MEMORY;
  }

  void finish() {
    const Model& m = *net.model;
    for (const auto& extra : forces)
      for (int64_t k = 0; k < 3 * s.n_atoms; k++) out.forces[k] += extra[k];
    for (size_t t = 1; t < virials.size(); t++)
      for (size_t k = 0; k < virials[0].size(); k++) virials[0][k] += virials[t][k];
    std::fill(out.total, out.total + s.n_structures, 0.0);
    for (int64_t i = 0; i < s.n_local; i++) {
      out.energies[i] = raw[i] * m.scale + m.reference[plan.elements[i]];
      out.total[s.structure ? s.structure[i] : 0] += out.energies[i];
    }
    if (out.stress) fill_stress(s, virials[0].data(), out.stress);
  }
};

extern "C" int nfflr_moment_layers(const Network* net, const Structures* s, const Results* out, int64_t n_threads) try {
  return Evaluation{*net, *s, *out, n_threads}.run();
} catch (const std::bad_alloc&) {
  return NO_MEMORY;
}
