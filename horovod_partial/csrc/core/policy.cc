// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "policy.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

namespace horovod_partial {
namespace {

// Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
// OOPSLA 2014: the finaliser, which turns a counter into a random number.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// FNV-1a: the same on every machine, unlike std::hash.
uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (unsigned char c : name) {
    hash = (hash ^ c) * 0x100000001b3ull;
  }
  return hash;
}

[[noreturn]] void Refuse(const std::string& text) {
  throw std::invalid_argument(
      "policy='" + text +
      "' is not a policy: use 'solo', 'majority', 'quorum:K', 'first:K', "
      "'full' or 'auto', with K a whole number of at least 1 ('auto:COST' with "
      "a staleness cost from 0)");
}

} // namespace

std::string Policy::ToString() const {
  switch (kind) {
  case PolicyKind::kSolo:
    return "solo";
  case PolicyKind::kMajority:
    return "majority";
  case PolicyKind::kQuorum:
    return "quorum:" + std::to_string(k);
  case PolicyKind::kFirst:
    return "first:" + std::to_string(k);
  case PolicyKind::kFull:
    return "full";
  case PolicyKind::kAuto: {
    if (staleness_cost == kStalenessCost) {
      return "auto";
    }
    char text[40];
    const auto end =
        std::to_chars(text, text + sizeof(text), staleness_cost).ptr;
    return "auto:" + std::string(text, end);
  }
  }
  return "?";
}

Policy ParsePolicy(const std::string& text) {
  if (text == "solo") {
    return {PolicyKind::kSolo};
  }
  if (text == "majority") {
    return {PolicyKind::kMajority};
  }
  if (text == "full") {
    return {PolicyKind::kFull};
  }
  if (text == "auto") {
    return {PolicyKind::kAuto};
  }
  auto colon = text.find(':');
  if (colon == std::string::npos) {
    Refuse(text);
  }
  const std::string word = text.substr(0, colon);
  const std::string digits = text.substr(colon + 1);
  if (word == "auto") {
    Policy policy{PolicyKind::kAuto};
    const char* end = digits.data() + digits.size();
    const auto read =
        std::from_chars(digits.data(), end, policy.staleness_cost);
    if (read.ec != std::errc() || read.ptr != end || digits[0] == '-' ||
        !std::isfinite(policy.staleness_cost)) {
      Refuse(text);
    }
    return policy;
  }
  const bool number =
      !digits.empty() && digits.size() <= 9 &&
      std::all_of(digits.begin(), digits.end(),
                  [](char c) { return c >= '0' && c <= '9'; });
  if (!number || std::stoi(digits) < 1 ||
      (word != "quorum" && word != "first")) {
    Refuse(text);
  }
  return {word == "quorum" ? PolicyKind::kQuorum : PolicyKind::kFirst,
          std::stoi(digits)};
}

RankSet DrawCommittee(uint64_t seed, const std::string& group, int64_t round,
                      int k, int size) {
  const uint64_t key = Mix(Mix(seed) ^ HashName(group));
  std::vector<int> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  RankSet committee(size);
  // A shuffle that stops after k members; the high word of a product maps a
  // random number to a range without a division.
  for (int i = 0; i < std::min(k, size); ++i) {
    const uint64_t random = Mix(key ^ Mix(static_cast<uint64_t>(round)) ^
                                Mix(~static_cast<uint64_t>(i)));
    const auto offset = static_cast<int>(
        (static_cast<unsigned __int128>(random) * (size - i)) >> 64);
    std::swap(ranks[i], ranks[i + offset]);
    committee.Add(ranks[i]);
  }
  return committee;
}

} // namespace horovod_partial
