// tidegate.h on a PC: the device without its board, for tests. Messages go through stdin and stdout,
// each with its length in two bytes (big endian) before it; a WebSocket client on the other side
// carries them. A length of 0 on stdin: connected (again).
//
//     g++ -std=c++17 -Wall -Wextra -o host host.cpp
//     host COUNT
//
// Ends with 0 once COUNT batches are acknowledged.

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "device/tidegate.h"

static bool send(uint8_t *message, size_t length) {
  fputc(length >> 8, stdout);
  fputc(length & 255, stdout);
  fwrite(message, 1, length, stdout);
  return fflush(stdout) == 0;
}

static const char *const COMMANDS[] = {"identify", "set-interval"};
static uint32_t every_ms = 10;

static bool set_interval(tidegate::Reader &params, tidegate::Writer &answer) {
  double seconds = tidegate::member(params, "seconds", 0);
  if (seconds < 0.01 || seconds > 3600) {
    answer.text("\"seconds\" must be a number from 0.01 to 3600");
    return false;
  }
  answer.map(2);
  answer.text("seconds");
  answer.real(seconds);
  answer.text("before");
  answer.real(every_ms / 1000.0);
  every_ms = seconds * 1000;
  return true;
}

static bool command(const char *name, tidegate::Reader &params, tidegate::Writer &answer) {
  fprintf(stderr, "command: %s\n", name);
  if (strcmp(name, "set-interval") == 0) return set_interval(params, answer);
  if (strcmp(name, "identify") == 0) {
    answer.map(1);
    answer.text("model");
    answer.text("host.cpp");
    return true;
  }
  answer.text("not known here");
  return false;
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: host COUNT\n");
    return 2;
  }
  static tidegate::Device device(uint32_t(time(nullptr)), send, command, COMMANDS);
  int left = atoi(argv[1]);
  uint32_t now_ms = 0;
  for (;;) {
    int high = getchar(), low = getchar();
    if (high == EOF || low == EOF) return 1;
    size_t length = high << 8 | low;
    if (length == 0) {
      device.on_disconnected();
      device.on_connected();
      continue;
    }
    static uint8_t message[65536];
    if (fread(message, 1, length, stdin) != length) return 1;
    if (!device.on_message(message, length)) {
      fprintf(stderr, "not a message of a gateway\n");
      return 1;
    }
    while (left > 0 && device.unacknowledged() < tidegate::KEEP) {
      tidegate::Reading readings[] = {{"chip_temperature", "Cel", 40.0 + left % 7},
                                      {"wifi_signal", "dBm", -60.0}};
      device.add(readings, 2, now_ms += every_ms);
      left--;
    }
    device.flush(now_ms);
    if (left == 0 && device.unacknowledged() == 0) return device.dropped() == 0 ? 0 : 1;
  }
}
