// A device on an ESP32 (Arduino core) that sends its chip temperature and Wi-Fi signal.
//
// Library: "WebSockets" by Markus Sattler (Links2004), version 2.4 or newer. Fill in the four lines
// below, and for wss:// the certificate authority.

#include <WebSocketsClient.h>
#include <WiFi.h>

#include "tidegate.h"

const char *WIFI_NAME = "…";
const char *WIFI_PASSWORD = "…";
const char *GATEWAY = "192.0.2.1";  // port 7070
const char *DEVICE = "kiln-3";
const char *TOKEN = "…";  // as `tidegate device add kiln-3` printed it

// For wss://: the authority that signed the gateway's certificate, in PEM. nullptr: plain ws://
const char *AUTHORITY = nullptr;

const char *const COMMANDS[] = {"identify", "set-interval", "restart"};

uint32_t every_ms = 2000;
uint32_t restart_in_ms = 0;

WebSocketsClient websocket;

bool send(uint8_t *message, size_t length) {
  return websocket.isConnected() && websocket.sendBIN(message, length);
}

bool set_interval(tidegate::Reader &params, tidegate::Writer &answer) {
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

bool command(const char *name, tidegate::Reader &params, tidegate::Writer &answer) {
  if (strcmp(name, "set-interval") == 0) return set_interval(params, answer);
  if (strcmp(name, "identify") == 0) {
    answer.map(2);
    answer.text("chip");
    answer.text(ESP.getChipModel());
    answer.text("uptime_s");
    answer.number(millis() / 1000);
    return true;
  }
  if (strcmp(name, "restart") == 0) {
    // What is remembered goes with the memory, so send this one with "redeliver": false. The
    // answer is written before the restart.
    restart_in_ms = 500;
    answer.text("restarting");
    return true;
  }
  answer.text("not known here");
  return false;
}

tidegate::Device *device;

void on_event(WStype_t type, uint8_t *payload, size_t length) {
  switch (type) {
    case WStype_CONNECTED:
      Serial.println("connected");
      device->on_connected();
      break;
    case WStype_DISCONNECTED:
      device->on_disconnected();
      // Chance in the wait, so that many devices do not come back in one instant.
      websocket.setReconnectInterval(2000 + esp_random() % 8000);
      break;
    case WStype_BIN:
      if (!device->on_message(payload, length)) Serial.println("not a message of a gateway");
      break;
    default:
      break;
  }
}

void setup() {
  Serial.begin(115200);
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  // Random after Wi-Fi is on; each boot starts its numbers at 1, so each needs an epoch of its own.
  static tidegate::Device made(esp_random(), send, command, COMMANDS);
  device = &made;

  static char path[96], authorization[160];
  snprintf(path, sizeof path, "/v1/devices/%s", DEVICE);
  snprintf(authorization, sizeof authorization, "Authorization: Bearer %s", TOKEN);
  websocket.setExtraHeaders(authorization);
  websocket.onEvent(on_event);
  if (AUTHORITY == nullptr) websocket.begin(GATEWAY, 7070, path, "tidegate.v1");
  else websocket.beginSslWithCA(GATEWAY, 7070, path, AUTHORITY, "tidegate.v1");
}

void loop() {
  websocket.loop();
  static uint32_t last = 0;
  if (millis() - last >= every_ms) {
    last = millis();
    tidegate::Reading readings[] = {
        {"chip_temperature", "Cel", temperatureRead()},
        {"wifi_signal", "dBm", double(WiFi.RSSI())},
    };
    device->add(readings, 2, millis());
  }
  device->flush(millis());
  static uint32_t told = 0;
  if (restart_in_ms == 0) told = millis();
  else if (millis() - told >= restart_in_ms) ESP.restart();
}
