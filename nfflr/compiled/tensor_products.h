// Products of one atom's tensors: invariants, vectors and matrices, as a list of terms c += n·a·b.
//
// The list is the only place where they are defined here: values, gradients and, with dual numbers, derivatives
// of gradients are all evaluated from it, unrolled by the compiler.
#pragma once

#include "bond_messages.h"

constexpr int TENSORS = 20, N_INVARIANTS = 14, N_VECTORS = 6, N_MATRICES = 7;
constexpr int PRODUCTS = N_INVARIANTS + 3 * N_VECTORS + 6 * N_MATRICES, SLOTS = TENSORS + PRODUCTS;
enum Vectors { V, MV, TM, MMV, TMM, TVV };
enum Matrices { M, VV, MM, TV, TT, TMV, TTM };

struct Term {
  int out, a, b, count;  // b < 0: linear
};

struct Terms {
  Term list[640] = {};
  int size = 0, for_invariants = 0;

  static constexpr int v(int a) { return 1 + a; }
  static constexpr int m(int a, int b) { return 4 + SYM[a][b]; }
  static constexpr int t(int a, int p) { return 10 + SYM3[p][a]; }
  static constexpr int invariant(int k) { return TENSORS + k; }
  static constexpr int vec_slot(int kind, int a) { return TENSORS + N_INVARIANTS + a * N_VECTORS + kind; }
  static constexpr int mat_slot(int kind, int p) { return TENSORS + N_INVARIANTS + 3 * N_VECTORS + p * N_MATRICES + kind; }

  constexpr void add(int out, int a, int b, int count = 1) { list[size++] = {out, a, b, count}; }
  constexpr void dot_vectors(int k, int x, int y) {
    for (int a = 0; a < 3; a++) add(invariant(k), vec_slot(x, a), vec_slot(y, a));
  }
  constexpr void dot_matrices(int k, int x, int y) {
    for (int p = 0; p < 6; p++) add(invariant(k), mat_slot(x, p), mat_slot(y, p), COUNT[p]);
  }
  constexpr void matrix_vector(int out, int x) {  // m·x
    for (int a = 0; a < 3; a++)
      for (int b = 0; b < 3; b++) add(vec_slot(out, a), m(a, b), vec_slot(x, b));
  }
  constexpr void tensor_matrix(int out, int x) {  // t:x
    for (int a = 0; a < 3; a++)
      for (int p = 0; p < 6; p++) add(vec_slot(out, a), t(a, p), mat_slot(x, p), COUNT[p]);
  }
  constexpr void tensor_vector(int out, int x) {  // t·x
    for (int p = 0; p < 6; p++)
      for (int a = 0; a < 3; a++) add(mat_slot(out, p), t(a, p), vec_slot(x, a));
  }

  constexpr Terms() {
    for (int a = 0; a < 3; a++) add(vec_slot(V, a), v(a), -1);
    for (int p = 0; p < 6; p++) add(mat_slot(M, p), 4 + p, -1);
    matrix_vector(MV, V), tensor_matrix(TM, M), tensor_vector(TV, V);
    for (int p = 0; p < 6; p++)
      for (int a = 0; a < 3; a++) {
        const int i = FIRST_AXIS[p], j = SECOND_AXIS[p];
        add(mat_slot(MM, p), m(i, a), m(j, a));
      }
    for (int p = 0; p < 6; p++)
      for (int q = 0; q < 6; q++) add(mat_slot(TT, p), t(FIRST_AXIS[p], q), t(SECOND_AXIS[p], q), COUNT[q]);
    add(invariant(0), 0, -1);
    dot_vectors(1, V, V), dot_matrices(2, M, M);
    for (int k = 0; k < 10; k++) add(invariant(3), 10 + k, 10 + k, COUNT3[k]);
    dot_vectors(4, MV, V), dot_matrices(5, MM, M), dot_vectors(6, TM, V), dot_matrices(7, TT, M);
    dot_vectors(8, MV, MV), dot_vectors(9, TM, TM), dot_matrices(10, TV, TV), dot_vectors(11, TM, MV);
    dot_matrices(12, TT, MM), dot_matrices(13, TT, TT);
    for_invariants = size;
    for (int p = 0; p < 6; p++) add(mat_slot(VV, p), v(FIRST_AXIS[p]), v(SECOND_AXIS[p]));
    matrix_vector(MMV, MV), tensor_matrix(TMM, MM), tensor_matrix(TVV, VV);
    tensor_vector(TMV, MV), tensor_vector(TTM, TM);
  }
};
constexpr Terms TERMS;

// x (SLOTS): tensors in, products out.
template <bool ALL, class T> static inline void products(T* x) {
  constexpr int n = ALL ? TERMS.size : TERMS.for_invariants;
  for (int k = TENSORS; k < SLOTS; k++) x[k] = T{};
#pragma GCC unroll 640
  for (int k = 0; k < n; k++) {
    constexpr const Term* terms = TERMS.list;
    const Term term = terms[k];
    if (term.b < 0)
      x[term.out] += x[term.a];
    else if (term.count == 1)
      x[term.out] += x[term.a] * x[term.b];
    else
      x[term.out] += x[term.a] * x[term.b] * real(term.count);
  }
}

// g (SLOTS): gradients by the products in, by the tensors out; x as `products` leaves it.
template <bool ALL, class T> static inline void reverse_products(const T* x, T* g) {
  constexpr int n = ALL ? TERMS.size : TERMS.for_invariants;
  for (int k = 0; k < TENSORS; k++) g[k] = T{};
#pragma GCC unroll 640
  for (int k = n - 1; k >= 0; k--) {
    constexpr const Term* terms = TERMS.list;
    const Term term = terms[k];
    if (term.b < 0) {
      g[term.a] += g[term.out];
    } else {
      const T out = term.count == 1 ? g[term.out] : g[term.out] * real(term.count);
      g[term.a] += out * x[term.b];
      g[term.b] += out * x[term.a];
    }
  }
}
