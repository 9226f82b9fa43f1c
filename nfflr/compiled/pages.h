// Memory for arrays over all atoms, in large pages where the system has them: the first touch of many small ones
// costs as much as the arithmetic.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

struct Release {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<char, Release>;

static inline Memory allocate(int64_t bytes) {
  constexpr int64_t LARGE = 1 << 21;
  const int64_t page = bytes >= 2 * LARGE ? LARGE : 64;
  void* p = nullptr;
  bytes = (bytes + page - 1) / page * page;
  if (posix_memalign(&p, page, bytes)) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
  if (page == LARGE) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return Memory(static_cast<char*>(p));
}
