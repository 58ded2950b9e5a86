// The device protocol tidegate.v1 for small boards: messages in CBOR, and what is kept until it is
// acknowledged. No heap, no Arduino: compiles on a PC as well, for tests.
//
// Call order: on_connected() when the WebSocket is up, on_message() for each binary message,
// on_disconnected() when it is gone, add() whenever something was measured, and flush() often.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace tidegate {

// Batches kept while there is no connection; the oldest is dropped when all are taken.
constexpr size_t KEEP = 32;
// Readings in a batch.
constexpr size_t READINGS = 4;
// Commands whose answers are remembered, so that one that comes again is carried out once.
constexpr size_t REMEMBER = 8;
// Bytes of an answer.
constexpr size_t ANSWER = 64;

struct Reading {
  const char *name;  // 1 to 64 characters of A-Z a-z 0-9 - : . / _
  const char *unit;  // RFC 8428 section 12.1, for example "Cel"
  double value;
};

// Writes CBOR into a buffer. Check ok() in the end.
class Writer {
 public:
  Writer(uint8_t *buffer, size_t size) : buffer_(buffer), size_(size) {}

  void array(uint32_t count) { head(4, count); }
  void map(uint32_t count) { head(5, count); }
  void number(uint64_t value) { head(0, value); }
  void boolean(bool value) { byte(value ? 0xf5 : 0xf4); }
  void null() { byte(0xf6); }

  void text(const char *text) {
    size_t length = strlen(text);
    head(3, length);
    for (size_t i = 0; i < length; i++) byte(text[i]);
  }

  void real(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    byte(0xfb);
    for (int shift = 56; shift >= 0; shift -= 8) byte(bits >> shift);
  }

  // What another writer has written.
  void bytes(const uint8_t *data, size_t length) {
    for (size_t i = 0; i < length; i++) byte(data[i]);
  }

  bool ok() const { return length_ <= size_; }
  size_t length() const { return length_; }

 private:
  void byte(uint8_t value) {
    if (length_ < size_) buffer_[length_] = value;
    length_++;
  }

  void head(uint8_t major, uint64_t value) {
    int bytes = value < 24 ? 0 : value < 0x100 ? 1 : value < 0x10000 ? 2 : value < 0x100000000 ? 4 : 8;
    uint8_t extra = bytes == 0 ? value : bytes == 1 ? 24 : bytes == 2 ? 25 : bytes == 4 ? 26 : 27;
    byte(major << 5 | extra);
    for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8) byte(value >> shift);
  }

  uint8_t *buffer_;
  size_t size_;
  size_t length_ = 0;
};

// Reads CBOR as far as a device needs it. Check ok() in the end.
class Reader {
 public:
  Reader(const uint8_t *data, size_t size) : data_(data), size_(size) {}

  // The number of items; the map's pairs count once.
  uint64_t array() { return head(4); }
  uint64_t map() { return head(5); }
  uint64_t number() { return head(0); }

  // A number, or `none` where there is null.
  uint64_t number_or(uint64_t none) {
    if (at_ < size_ && data_[at_] == 0xf6) {
      at_++;
      return none;
    }
    return number();
  }

  // A number of any kind. Those with few digits, such as 0.5, come as half floats.
  double real() {
    uint8_t first = at_ < size_ ? data_[at_] : 0xff;
    switch (first) {
      case 0xf9: {
        uint64_t bits = any();
        int exponent = bits >> 10 & 31;
        double fraction = double(bits & 1023) / 1024;
        double value = exponent ? (1 + fraction) * power(exponent - 15) : fraction * power(-14);
        if (exponent == 31) fail();
        return bits & 0x8000 ? -value : value;
      }
      case 0xfa: {
        uint32_t bits = any();
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
      }
      case 0xfb: {
        uint64_t bits = any();
        double value;
        memcpy(&value, &bits, sizeof value);
        return value;
      }
      default: return first >> 5 == 1 ? -1.0 - double(head(1)) : double(head(0));
    }
  }

  // Copies a text, cut to what fits.
  void text(char *into, size_t size) {
    uint64_t length = head(3);
    if (length > size_ - at_) return fail();
    size_t fits = length < size - 1 ? length : size - 1;
    memcpy(into, data_ + at_, fits);
    into[fits] = 0;
    at_ += length;
  }

  // Passes over one item, whatever it is.
  void skip(int depth = 0) {
    if (depth > 8 || at_ >= size_) return fail();
    uint8_t major = data_[at_] >> 5;
    uint64_t value = any();
    if (major == 2 || major == 3) {
      if (value > size_ - at_) return fail();
      at_ += value;
    } else if (major >= 4 && major <= 6) {
      uint64_t items = major == 6 ? 1 : major == 5 ? value * 2 : value;
      for (uint64_t i = 0; i < items && ok_; i++) skip(depth + 1);
    }
  }

  bool ok() const { return ok_; }

 private:
  void fail() {
    ok_ = false;
    at_ = size_;
  }

  static double power(int exponent) {
    double value = 1;
    for (; exponent > 0; exponent--) value *= 2;
    for (; exponent < 0; exponent++) value /= 2;
    return value;
  }

  uint64_t head(uint8_t major) {
    if (at_ >= size_ || data_[at_] >> 5 != major) {
      fail();
      return 0;
    }
    return any();
  }

  uint64_t any() {
    uint8_t extra = data_[at_++] & 31;
    if (extra < 24) return extra;
    size_t bytes = extra <= 27 ? size_t(1) << (extra - 24) : 9;
    if (bytes > 8 || size_ - at_ < bytes) {
      fail();
      return 0;
    }
    uint64_t value = 0;
    while (bytes--) value = value << 8 | data_[at_++];
    return value;
  }

  const uint8_t *data_;
  size_t size_;
  size_t at_ = 0;
  bool ok_ = true;
};

// How the device writes a message; false: the connection is busy or gone, try again later.
using Send = bool (*)(uint8_t *message, size_t length);
// A command came. True: done, and `answer` has got one item, the result; false: it has got a text
// that says why not. Where it has got nothing or too much, null is answered.
using Command = bool (*)(const char *name, Reader &params, Writer &answer);

// The number that the map in `params` has under `key`; `none` where it has none.
inline double member(Reader &params, const char *key, double none) {
  double found = none;
  for (uint64_t pairs = params.map(); pairs > 0 && params.ok(); pairs--) {
    char name[24];
    params.text(name, sizeof name);
    if (strcmp(name, key) == 0) found = params.real();
    else params.skip();
  }
  return params.ok() ? found : none;
}

class Device {
 public:
  // `epoch` says which run of numbers this is: a random number of each boot, or a boot counter.
  // `names` are the commands that the device understands.
  template <size_t N>
  Device(uint32_t epoch, Send send, Command command, const char *const (&names)[N])
      : epoch_(epoch), send_(send), command_(command), names_(names), names_count_(N) {}

  void on_connected() {
    uint8_t buffer[512];
    Writer hello(buffer, sizeof buffer);
    hello.array(2);
    hello.number(0);
    hello.map(3);
    hello.text("epoch");
    hello.number(epoch_);
    hello.text("model");
    hello.text("ESP32");
    hello.text("commands");
    hello.array(names_count_);
    for (size_t i = 0; i < names_count_; i++) hello.text(names_[i]);
    if (hello.ok()) send_(buffer, hello.length());
  }

  void on_disconnected() { window_ = 0; }

  // One binary message. False: not a message of a gateway.
  bool on_message(const uint8_t *data, size_t length) {
    Reader in(data, length);
    in.array();
    switch (in.number()) {
      case 16: return welcome(in);
      case 17: {
        uint64_t acked = in.number();
        if (in.ok()) settle(acked);
        return in.ok();
      }
      case 18: {
        uint64_t seq = in.number_or(0);
        if (in.ok()) forget(seq);
        return in.ok();
      }
      case 19: return command(in);
      default: return in.ok();
    }
  }

  // Takes one batch, measured at `now_ms` (millis()).
  void add(const Reading *readings, size_t count, uint32_t now_ms) {
    if (kept_ == KEEP) {
      dropped_++;
      remove(0);
    }
    Batch &batch = batches_[kept_++];
    batch.seq = ++seq_;
    batch.measured_ms = now_ms;
    batch.count = count < READINGS ? count : READINGS;
    for (size_t i = 0; i < batch.count; i++) batch.readings[i] = readings[i];
  }

  // Writes what may be written. Everything not acknowledged goes out again after a reconnect.
  void flush(uint32_t now_ms) {
    if (window_ > 0) answer();
    for (size_t i = 0; i < kept_ && i < window_; i++) {
      const Batch &batch = batches_[i];
      if (batch.seq <= sent_) continue;
      uint8_t buffer[32 + READINGS * 96];
      Writer out(buffer, sizeof buffer);
      out.array(3);
      out.number(1);
      out.number(batch.seq);
      out.array(batch.count);
      for (size_t r = 0; r < batch.count; r++) {
        out.map(4);
        out.number(0);
        out.text(batch.readings[r].name);
        out.number(1);
        out.text(batch.readings[r].unit);
        out.number(2);
        out.real(batch.readings[r].value);
        // Under 2^28 a time is relative to now: so many seconds ago. No clock is needed.
        out.number(6);
        out.real((now_ms - batch.measured_ms) / -1000.0);
      }
      if (!out.ok()) {
        remove(i--);
        dropped_++;
        continue;
      }
      if (!send_(buffer, out.length())) return;
      sent_ = batch.seq;
    }
  }

  size_t unacknowledged() const { return kept_; }
  uint32_t dropped() const { return dropped_; }
  bool greeted() const { return window_ > 0; }

 private:
  struct Batch {
    uint32_t seq;
    uint32_t measured_ms;
    size_t count;
    Reading readings[READINGS];
  };

  struct Answer {
    char id[65];
    bool ok;
    bool sent;
    size_t length;
    uint8_t value[ANSWER];
  };

  bool welcome(Reader &in) {
    uint64_t window = 0, acked = 0;
    for (uint64_t pairs = in.map(); pairs > 0 && in.ok(); pairs--) {
      char key[12];
      in.text(key, sizeof key);
      if (strcmp(key, "window") == 0) window = in.number();
      else if (strcmp(key, "acked") == 0) acked = in.number();
      else in.skip();
    }
    if (!in.ok()) return false;
    settle(acked);
    sent_ = 0;
    // Nothing says whether a RESULT arrived: the gateway drops those that it has.
    for (size_t i = 0; i < answered_; i++) answers_[i].sent = false;
    window_ = window < KEEP ? window : KEEP;
    return true;
  }

  bool command(Reader &in) {
    char id[65], name[65];
    in.text(id, sizeof id);
    in.text(name, sizeof name);
    if (!in.ok()) return false;
    for (size_t i = 0; i < answered_; i++) {
      if (strcmp(answers_[i].id, id) != 0) continue;
      // Sent again after a reconnect: it is carried out, so only the answer is repeated.
      answers_[i].sent = false;
      answer();
      return true;
    }
    if (answered_ == REMEMBER) {
      answered_--;
      for (size_t i = 0; i < answered_; i++) answers_[i] = answers_[i + 1];
    }
    Answer &made = answers_[answered_++];
    strcpy(made.id, id);
    Writer value(made.value, sizeof made.value);
    made.ok = command_(name, in, value);
    made.length = value.ok() ? value.length() : 0;
    made.sent = false;
    answer();
    return true;
  }

  // Writes the RESULTs that are not written; what fails is tried again by flush().
  void answer() {
    for (size_t i = 0; i < answered_; i++) {
      Answer &made = answers_[i];
      if (made.sent) continue;
      uint8_t buffer[80 + ANSWER];
      Writer result(buffer, sizeof buffer);
      result.array(4);
      result.number(2);
      result.text(made.id);
      result.boolean(made.ok);
      if (made.length > 0) result.bytes(made.value, made.length);
      else result.null();
      if (!send_(buffer, result.length())) return;
      made.sent = true;
    }
  }

  void settle(uint64_t acked) {
    while (kept_ > 0 && batches_[0].seq <= acked) remove(0);
  }

  void forget(uint64_t seq) {
    for (size_t i = 0; i < kept_; i++)
      if (batches_[i].seq == seq) return remove(i);
  }

  void remove(size_t index) {
    kept_--;
    for (size_t i = index; i < kept_; i++) batches_[i] = batches_[i + 1];
  }

  uint32_t epoch_;
  Send send_;
  Command command_;
  const char *const *names_;
  size_t names_count_;
  Batch batches_[KEEP];
  size_t kept_ = 0;
  uint32_t seq_ = 0;
  uint32_t sent_ = 0;
  size_t window_ = 0;
  uint32_t dropped_ = 0;
  Answer answers_[REMEMBER];
  size_t answered_ = 0;
};

}  // namespace tidegate
