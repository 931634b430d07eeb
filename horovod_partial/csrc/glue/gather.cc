// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "gather.h"

#include <cstring>
#include <stdexcept>

#include "horovod/common/controller.h"

namespace horovod_partial {
namespace glue {

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
  for (long long length : lengths) {
    if (length < 0 || length > (1ll << 31)) {
      throw std::runtime_error("an announcement of " + std::to_string(length) +
                               " bytes cannot be");
    }
    offsets.push_back(words);
    words += (length + word - 1) / word;
  }
  std::vector<long long> buffer(words, 0);
  std::memcpy(buffer.data() + offsets[rank], message.data(), message.size());
  if (words > 0) {
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
