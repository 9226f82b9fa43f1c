// Energy, forces and virial of the one-layer moment-tensor network (nfflr/models/moment.py) in one sweep.
//
// Atoms are taken in blocks of up to 8 that share weights, whose bonds and features stay in cache from the
// forward to the reverse pass. Bonds are component-major, a vector register of neighbours at a time; moments are
// accumulated with the harmonics in a register; invariants are evaluated for a register of channels at a time.
//
// Given by the build: REAL, RADIAL (functions per bond), CHANNELS and HIDDEN (multiples of 16).
// Plain C interface; no header of torch is needed, so that a build takes seconds.

#include <algorithm>
#include <memory>
#include <new>
#include <vector>

#include "results.h"

// What is known of the atoms before the sweep.
struct Plan {
  std::vector<int> elements;      // (N,)
  std::vector<int64_t> edges;     // (N + 1,) where the candidates of each atom begin
  std::vector<int64_t> order;     // (n_local,) atoms, those that share weights together
  std::vector<int64_t> blocks;    // where blocks begin in `order`, and its end

  // False: an element is not covered.
  bool make(const Model& m, const Structures& s) {
    elements.resize(s.n_atoms), order.resize(s.n_local), edges.assign(s.n_atoms + 1, 0);
    std::vector<int64_t> first(m.n_own + 1, 0);
    for (int64_t i = 0; i < s.n_atoms; i++) {
      const int64_t z = s.numbers[i];
      elements[i] = z >= 0 && z < m.n_numbers ? m.element_index[z] : -1;
      if (elements[i] < 0) return false;
      if (i < s.n_local) first[m.own(elements[i]) + 1]++;
    }
    for (int64_t z = 0; z < m.n_own; z++) {
      first[z + 1] += first[z];
      for (int64_t k = first[z]; k < first[z + 1]; k += BLOCK) blocks.push_back(k);
    }
    blocks.push_back(s.n_local);
    for (int64_t i = 0; i < s.n_local; i++) order[first[m.own(elements[i])]++] = i;
    for (int64_t e = 0; e < s.n_edges; e++) edges[s.dst[e] + 1]++;
    for (int64_t i = 0; i < s.n_atoms; i++) edges[i + 1] += edges[i];
    return true;
  }
};

// Blocks begin…end; forces and virial are added to.
static Status sweep(const Model& m, const Structures& s, const Plan& plan, int64_t begin, int64_t end, double* energies,
                    double* forces, double* virial, int64_t* culprits) try {
  auto w = std::make_unique<Workspace>(m);
  for (int64_t b = begin; b < end; b++) {
    const int64_t* atoms = plan.order.data() + plan.blocks[b];
    Block block{m, s, plan.elements.data(), *w, atoms, int(plan.blocks[b + 1] - plan.blocks[b]),
                m.own(plan.elements[*atoms])};
    int64_t most = 0;
    for (int a = 0; a < block.size; a++) most = std::max(most, plan.edges[atoms[a] + 1] - plan.edges[atoms[a]]);
    w->reserve(most + LANES);
    for (int a = 0; a < block.size; a++) {
      const Status status = block.gather(a, plan.edges[atoms[a]], plan.edges[atoms[a] + 1], culprits);
      if (status != DONE) return status;
      block.forward(a);
    }
    block.readout(energies);
    for (int a = 0; a < block.size; a++) {
      const int64_t structure = s.structure ? s.structure[atoms[a]] : 0;
      block.reverse(a, forces, virial ? virial + 6 * structure : nullptr);
    }
  }
  return DONE;
} catch (const std::bad_alloc&) {
  return NO_MEMORY;
}

// All results are overwritten. Threads take consecutive atoms, and their sums are added in order, so that the
// same number of threads gives the same bits.
static Status evaluate(const Model& model, const Structures& s, const Results& out, int64_t n_threads) {
  Plan plan;
  if (!plan.make(model, s)) return UNKNOWN_ELEMENT;
  const int64_t n_blocks = plan.blocks.size() - 1;
  const int64_t n = std::max<int64_t>(1, std::min(n_threads, n_blocks / 16));
  const int64_t n_virial = out.stress ? 6 * s.n_structures : 0;
  std::vector<std::vector<double>> forces(n - 1, std::vector<double>(3 * s.n_atoms));
  std::vector<std::vector<double>> virials(n, std::vector<double>(n_virial));
  std::vector<int64_t> culprits(2 * n);
  std::vector<Status> status(n);
  std::fill(out.forces, out.forces + 3 * s.n_atoms, 0.0);
  auto work = [&](int64_t t) {
    status[t] = sweep(model, s, plan, t * n_blocks / n, (t + 1) * n_blocks / n, out.energies, t ? forces[t - 1].data() : out.forces,
                      out.stress ? virials[t].data() : nullptr, &culprits[2 * t]);
  };
  in_threads(n, work);
  for (int64_t t = 0; t < n; t++)
    if (status[t] != DONE) return std::copy_n(&culprits[2 * t], 2, out.culprits), status[t];
  for (const auto& extra : forces)
    for (int64_t k = 0; k < 3 * s.n_atoms; k++) out.forces[k] += extra[k];
  for (int64_t t = 1; t < n; t++)
    for (int64_t k = 0; k < n_virial; k++) virials[0][k] += virials[t][k];
  std::fill(out.total, out.total + s.n_structures, 0.0);
  for (int64_t i = 0; i < s.n_local; i++) out.total[s.structure ? s.structure[i] : 0] += out.energies[i];
  if (out.stress) fill_stress(s, virials[0].data(), out.stress);
  return DONE;
}

extern "C" int nfflr_moment(const Model* model, const Structures* s, const Results* out, int64_t n_threads) try {
  return evaluate(*model, *s, *out, n_threads);
} catch (const std::bad_alloc&) {
  return NO_MEMORY;
}
