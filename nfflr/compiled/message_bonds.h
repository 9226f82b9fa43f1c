// Messages along the bonds of one atom, a few bonds and a register of channels at a time, and their reverse.
//
// Given by the build: MESSAGES, channels of what is sent (a multiple of 16), beside what moment_bonds.h needs.
#pragma once

#include "moment_block.h"
#include "tensor_products.h"

constexpr int TILE = 4;  // bonds that share the loads of weights

// Bonds of one atom that are kept from the first to the last pass.
struct KeptBonds {
  Bonds bonds{};
  Neighbours neighbours;
  int count() const { return neighbours.count; }
};

// What is sent and received lies register by register: (MESSAGES / LANES, components) registers of channels.
constexpr int REGISTERS = MESSAGES / LANES;
static inline const vec* registers(const real* x) { return reinterpret_cast<const vec*>(x); }

// Radial functions (TILE, PATHS) of a register of channels: sums over `basis`, columns of TILE bonds, with weights
// (RADIAL, PATHS) registers.
static inline void radial(const vec* weight, const real* basis, int64_t capacity, vec (*r)[PATHS]) {
  constexpr int PART = BYTES == 64 ? 5 : 2;  // so that all sums are in registers
  for (int p = 0; p < PATHS; p += PART) {
    vec sums[TILE][PART] = {};
    asm volatile("" : "+r"(basis));  // else the compiler loads it once, and keeps all of it in memory
    for (int n = 0; n < RADIAL; n++) {
      vec w[PART];
      UNROLL for (int q = 0; q < PART; q++) w[q] = weight[n * PATHS + p + q];
      UNROLL for (int t = 0; t < TILE; t++) {
        const vec x = all(basis[n * capacity + t]);
        UNROLL for (int q = 0; q < PART; q++) sums[t][q] += x * w[q];
      }
    }
    UNROLL for (int t = 0; t < TILE; t++)
      UNROLL for (int q = 0; q < PART; q++) r[t][p + q] = sums[t][q];
  }
}

// out[k] = sum of x[k] over its lanes, for four registers.
static inline void sum_four(const vec* x, real* out) {
  typedef real quad __attribute__((vector_size(4 * sizeof(real)), may_alias));
  static_assert(LANES % 4 == 0 || LANES == 2, "");
  if (LANES < 4) {
    for (int k = 0; k < 4; k++) out[k] = sum(x[k]);
    return;
  }
  real parts[4][4];
  UNROLL for (int k = 0; k < 4; k++) {
    const real* lanes = reinterpret_cast<const real*>(x + k);
    quad total;
    std::memcpy(&total, lanes, sizeof(quad));
    UNROLL for (int l = 4; l < LANES; l += 4) {
      quad next;
      std::memcpy(&next, lanes + l, sizeof(quad));
      total += next;
    }
    std::memcpy(parts[k], &total, sizeof(quad));
  }
  UNROLL for (int k = 0; k < 4; k++) out[k] = (parts[k][0] + parts[k][1]) + (parts[k][2] + parts[k][3]);
}

// What one atom receives, REGISTERS of RECEIVED, of what its neighbours send, `sent` (N, SENT · MESSAGES).
__attribute__((flatten)) static void receive(const KeptBonds& kept, const real* weight, const real* sent, real* received) {
  const Bonds& bonds = kept.bonds;
  const real *ux = bonds.column(Bonds::X), *uy = bonds.column(Bonds::Y), *uz = bonds.column(Bonds::Z);
  alignas(64) vec r[TILE][PATHS];
  for (int c = 0; c < REGISTERS; c++) {
    vec m[RECEIVED] = {};
    for (int k = 0; k < kept.count(); k += TILE) {
      radial(registers(weight) + c * RADIAL * PATHS, bonds.column(Bonds::PHI) + k, bonds.capacity, r);
      for (int t = 0, n = std::min(TILE, kept.count() - k); t < n; t++) {
        const vec* h = registers(sent + bonds.src[k + t] * SENT * MESSAGES) + c * SENT;
        const real u[3] = {ux[k + t], uy[k + t], uz[k + t]};
        Neighbour<vec, real>(h, u).send(r[t], m);
      }
    }
    for (int q = 0; q < RECEIVED; q++) store(received + (c * RECEIVED + q) * LANES, m[q]);
  }
}

// The reverse, for the atom that sends: its bonds, turned round, are the ones along which its neighbours receive.
struct Echo {
  const KeptBonds& kept;
  const real *weight, *sent;  // the latter of this atom, REGISTERS of SENT
  const real* cotangents;     // (N, RECEIVED · MESSAGES), divided by counts
  const int8_t* need;         // (N,) …
  int least;                  // of atoms that receive
  real* g_sent;               // REGISTERS of SENT, overwritten
  real* slopes;               // (bonds.capacity, 4): ∂E/∂r, and by the unit vector

  void run() const {
    std::fill(g_sent, g_sent + SENT * MESSAGES, real(0));
    for (int k = 0; k < kept.count(); k += TILE) tile(k, std::min(TILE, kept.count() - k));
  }

  __attribute__((flatten)) void tile(int k, int n) const {
    const Bonds& bonds = kept.bonds;
    alignas(64) vec r[TILE][PATHS], s[TILE][PATHS], sums[TILE][4] = {};
    for (int c = 0; c < REGISTERS; c++) {
      const vec* w = registers(weight) + c * RADIAL * PATHS;
      radial(w, bonds.column(Bonds::PHI) + k, bonds.capacity, r);
      radial(w, bonds.column(Bonds::DPHI) + k, bonds.capacity, s);
      for (int t = 0; t < n; t++)
        if (need[bonds.src[k + t]] >= least) bond(k + t, c, r[t], s[t], sums[t]);
    }
    for (int t = 0; t < n; t++) sum_four(sums[t], slopes + 4 * (k + t));
  }

  inline void bond(int k, int c, const vec* r, const vec* s, vec* sums) const {
    const Bonds& bonds = kept.bonds;
    const vec* a = registers(cotangents + bonds.src[k] * RECEIVED * MESSAGES) + c * RECEIVED;
    const real u[3] = {-bonds.column(Bonds::X)[k], -bonds.column(Bonds::Y)[k], -bonds.column(Bonds::Z)[k]};
    const Neighbour<vec, real> neighbour(registers(sent) + c * SENT, u);
    const Reply<vec, real> reply(neighbour, a);
    vec g_u[3];
    sums[0] += reply.by_radial_times(s);
    reply.by_sent_and_unit(r, reinterpret_cast<vec*>(g_sent) + c * SENT, g_u);
    UNROLL for (int q = 0; q < 3; q++) sums[1 + q] += g_u[q];
  }

  // Adds to forces (N, 3) and to the virial (6,) of the atom's structure.
  void push(int64_t atom, double scale, double* forces, double* virial) const {
    const Bonds& bonds = kept.bonds;
    double total[3] = {}, outer[6] = {};
    for (int k = 0; k < kept.count(); k++) {
      const real u[3] = {bonds.column(Bonds::X)[k], bonds.column(Bonds::Y)[k], bonds.column(Bonds::Z)[k]};
      const real r = bonds.column(Bonds::R)[k], inverse = bonds.column(Bonds::INVERSE)[k];
      const real* slope = slopes + 4 * k;
      // The unit vector was turned round, so its gradient is too.
      const real radial = slope[0] + (slope[1] * u[0] + slope[2] * u[1] + slope[3] * u[2]) * inverse;
      real g[3], x[3];
      double* f = forces + 3 * bonds.src[k];
      UNROLL for (int q = 0; q < 3; q++) {
        g[q] = radial * u[q] - slope[1 + q] * inverse, x[q] = r * u[q];
        total[q] += g[q], f[q] -= scale * g[q];
      }
      if (!virial) continue;
      UNROLL for (int q = 0; q < 3; q++) outer[q] += x[q] * g[q];
      outer[3] += (x[1] * g[2] + x[2] * g[1]) / 2, outer[4] += (x[0] * g[2] + x[2] * g[0]) / 2;
      outer[5] += (x[0] * g[1] + x[1] * g[0]) / 2;
    }
    for (int q = 0; q < 3; q++) forces[3 * atom + q] += scale * total[q];
    if (virial) for (int q = 0; q < 6; q++) virial[q] += scale * outer[q];
  }
};
