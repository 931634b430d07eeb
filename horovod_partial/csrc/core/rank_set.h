// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_RANK_SET_H
#define HOROVOD_PARTIAL_CORE_RANK_SET_H

#include <cstdint>
#include <string>
#include <vector>

namespace horovod_partial {

// A set of ranks 0..size-1 of one process set, kept as bits.
class RankSet {
public:
  RankSet() = default;
  explicit RankSet(int size) : size_(size), words_((size + 63) / 64, 0) {}

  static RankSet All(int size) {
    RankSet set(size);
    for (int rank = 0; rank < size; ++rank) {
      set.Add(rank);
    }
    return set;
  }

  int size() const { return size_; }
  void Add(int rank) { words_[rank >> 6] |= uint64_t{1} << (rank & 63); }
  void Remove(int rank) { words_[rank >> 6] &= ~(uint64_t{1} << (rank & 63)); }
  bool Has(int rank) const { return (words_[rank >> 6] >> (rank & 63)) & 1; }

  int Count() const {
    int count = 0;
    for (uint64_t word : words_) {
      count += __builtin_popcountll(word);
    }
    return count;
  }

  bool Empty() const {
    for (uint64_t word : words_) {
      if (word != 0) {
        return false;
      }
    }
    return true;
  }

  bool Full() const { return Count() == size_; }

  bool Contains(const RankSet& other) const { return (other - *this).Empty(); }

  // The lowest rank in the set, -1 when it is empty.
  int Lowest() const {
    for (size_t i = 0; i < words_.size(); ++i) {
      if (words_[i] != 0) {
        return static_cast<int>(i * 64) + __builtin_ctzll(words_[i]);
      }
    }
    return -1;
  }

  std::vector<int> ToVector() const {
    std::vector<int> ranks;
    for (int rank = 0; rank < size_; ++rank) {
      if (Has(rank)) {
        ranks.push_back(rank);
      }
    }
    return ranks;
  }

  // "0, 3, 4"
  std::string ToString() const {
    std::string text;
    for (int rank : ToVector()) {
      if (!text.empty()) {
        text += ", ";
      }
      text += std::to_string(rank);
    }
    return text;
  }

  RankSet operator|(const RankSet& o) const {
    return Combine(o, [](uint64_t a, uint64_t b) { return a | b; });
  }
  RankSet operator&(const RankSet& o) const {
    return Combine(o, [](uint64_t a, uint64_t b) { return a & b; });
  }
  RankSet operator-(const RankSet& o) const {
    return Combine(o, [](uint64_t a, uint64_t b) { return a & ~b; });
  }
  bool operator==(const RankSet& o) const {
    return size_ == o.size_ && words_ == o.words_;
  }
  bool operator!=(const RankSet& o) const { return !(*this == o); }

private:
  template <typename F> RankSet Combine(const RankSet& o, F f) const {
    RankSet result(size_);
    for (size_t i = 0; i < words_.size(); ++i) {
      result.words_[i] = f(words_[i], o.words_[i]);
    }
    return result;
  }

  int size_ = 0;
  std::vector<uint64_t> words_;
};

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_RANK_SET_H
