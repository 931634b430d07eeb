// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_WIRE_H
#define HOROVOD_PARTIAL_CORE_WIRE_H

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace horovod_partial {

// Writes numbers and strings one after the other. Ranks are taken to have the
// same byte order, as everywhere in Horovod.
class WireWriter {
public:
  template <typename T> void Number(T value) {
    static_assert(std::is_arithmetic<T>::value, "a number");
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void String(const std::string& text) {
    Number(static_cast<uint32_t>(text.size()));
    bytes_ += text;
  }
  std::string Take() { return std::move(bytes_); }

private:
  std::string bytes_;
};

// Reads what WireWriter wrote. Whatever the bytes are, it reads nothing beyond
// them and allocates no more than they are long: else std::runtime_error.
class WireReader {
public:
  explicit WireReader(const std::string& bytes) : bytes_(bytes) {}

  template <typename T> T Number() {
    T value;
    Need(sizeof(value));
    std::memcpy(&value, bytes_.data() + at_, sizeof(value));
    at_ += sizeof(value);
    return value;
  }

  std::string String() {
    const auto length = Number<uint32_t>();
    Need(length);
    std::string text = bytes_.substr(at_, length);
    at_ += length;
    return text;
  }

  // A count of things that each take at least `least` bytes.
  uint32_t Count(size_t least) {
    const auto count = Number<uint32_t>();
    if (count > (bytes_.size() - at_) / least) {
      Fail("a count of " + std::to_string(count) + " in " +
           std::to_string(bytes_.size() - at_) + " bytes");
    }
    return count;
  }

  // A number below `limit`, for an enumeration.
  uint8_t Choice(uint8_t limit) {
    const auto value = Number<uint8_t>();
    if (value >= limit) {
      Fail("choice " + std::to_string(value) + " of " + std::to_string(limit));
    }
    return value;
  }

  void End() const {
    if (at_ != bytes_.size()) {
      Fail(std::to_string(bytes_.size() - at_) + " bytes too many");
    }
  }

private:
  void Need(size_t count) const {
    if (count > bytes_.size() - at_) {
      Fail("it is cut short");
    }
  }
  [[noreturn]] static void Fail(const std::string& what) {
    throw std::runtime_error(
        "a message of the partial collectives cannot be read: " + what);
  }

  const std::string& bytes_;
  size_t at_ = 0;
};

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_WIRE_H
