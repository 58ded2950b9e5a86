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

static bool command(const char *name) {
  fprintf(stderr, "command: %s\n", name);
  return strcmp(name, "restart") == 0;
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: host COUNT\n");
    return 2;
  }
  static tidegate::Device device(uint32_t(time(nullptr)), send, command);
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
      device.add(readings, 2, now_ms += 10);
      left--;
    }
    device.flush(now_ms);
    if (left == 0 && device.unacknowledged() == 0) return device.dropped() == 0 ? 0 : 1;
  }
}
