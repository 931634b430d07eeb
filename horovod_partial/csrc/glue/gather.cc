// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "gather.h"

#include <climits>
#include <cstring>
#include <stdexcept>

#include "horovod/common/controller.h"

namespace horovod_partial {
namespace glue {
namespace {

// Bytes. No message is as long; a wrong length makes a rank allocate no more.
constexpr long long kMost = 1ll << 26;

} // namespace

std::vector<std::string> GatherMessages(horovod::common::Controller& controller,
                                        const std::string& message) {
  const int size = controller.GetSize();
  const int rank = controller.GetRank();
  std::vector<long long> lengths(size, 0);
  lengths[rank] = static_cast<long long>(message.size());
  controller.CrossRankBitwiseOr(lengths, size);

  constexpr size_t word = sizeof(long long);
  std::vector<size_t> offsets;
  size_t words = 0;
  for (int r = 0; r < size; ++r) {
    const long long length = lengths[r];
    if (length < 0 || length > kMost || words > INT_MAX / 2 ||
        (r == rank && length != static_cast<long long>(message.size()))) {
      throw std::runtime_error("a message of " + std::to_string(length) +
                               " bytes from rank " + std::to_string(r) +
                               " cannot be");
    }
    offsets.push_back(words);
    words += (length + word - 1) / word;
  }
  std::vector<long long> buffer(words, 0);
  if (words > 0) {
    std::memcpy(buffer.data() + offsets[rank], message.data(), message.size());
    controller.CrossRankBitwiseOr(buffer, static_cast<int>(words));
  }
  std::vector<std::string> messages;
  for (int r = 0; r < size; ++r) {
    messages.emplace_back(
        reinterpret_cast<const char*>(buffer.data() + offsets[r]), lengths[r]);
  }
  return messages;
}

} // namespace glue
} // namespace horovod_partial
