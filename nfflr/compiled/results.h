// What kernels of potentials fill in.
#pragma once

#include <system_error>
#include <thread>
#include <vector>

#include "moment_block.h"

struct Results {
  double* total;      // (B,) eV
  double* energies;   // (n_local,) eV
  double* forces;     // (N, 3) eV/Å
  double* stress;     // (B, 3, 3) eV/Å³, or null: not wanted
  int64_t* culprits;  // (2,) atoms that an error names
};

// Calls work(t) for t = 0…n − 1, each in a thread of its own.
template <class Work> static void in_threads(int64_t n, const Work& work) {
  std::vector<std::thread> threads;
  for (int64_t t = 1; t < n; t++) try {
      threads.emplace_back(work, t);
    } catch (const std::system_error&) {
      work(t);  // no thread to be had
    }
  work(0);
  for (auto& thread : threads) thread.join();
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
