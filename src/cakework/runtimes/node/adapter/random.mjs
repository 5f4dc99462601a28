/**
 * What makes two copies of one snapshot draw different numbers.
 *
 * Node draws from a generator in the process, which copies share, and offers no way to seed it anew. So what it
 * gives is mixed with bytes of the kernel, which pid 1 has seeded for this machine before anything ran.
 * Node's own use of its generator (keys that it makes, TLS) is not reached from here.
 */
import crypto from "node:crypto";
import fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";

const UUID_BYTES = 16;
const INT_BYTES = 6;
const kernel = fs.openSync("/dev/urandom", "r");
const readSync = fs.readSync;
let draw;

/** Has `crypto` and Math.random draw from the kernel. Once, before the function is imported. */
export function install() {
  const { randomBytes, randomFill, randomFillSync, randomInt, randomUUID } = crypto;
  crypto.randomBytes = (size, callback) => {
    if (callback === undefined) return mix(randomBytes(size));
    return randomBytes(size, (error, bytes) => callback(error, error ? bytes : mix(bytes)));
  };
  crypto.pseudoRandomBytes = crypto.randomBytes;
  crypto.randomFillSync = (buffer, offset = 0, size = undefined) => {
    randomFillSync(buffer, offset, size);
    mixPart(buffer, offset, size);
    return buffer;
  };
  crypto.randomFill = (buffer, ...rest) => {
    const callback = rest.pop();
    const mixed = (error, filled) => {
      if (!error) mixPart(buffer, rest[0], rest[1]);
      callback(error, filled);
    };
    randomFill(buffer, ...rest, typeof callback === "function" ? mixed : callback);
  };
  crypto.randomInt = (min, max, callback) => {
    const [low, high, done] =
      max === undefined || typeof max === "function" ? [0, min, max] : [min, max, callback];
    // It checks what it is given.
    if (done === undefined) {
      randomInt(low, high);
      return between(low, high);
    }
    return randomInt(low, high, (error) => done(error, error ? undefined : between(low, high)));
  };
  crypto.randomUUID = (options) => {
    randomUUID(options);
    return uuid();
  };
  const prototype = Object.getPrototypeOf(crypto.webcrypto);
  const { getRandomValues } = prototype;
  define(prototype, "getRandomValues", function (array) {
    getRandomValues.call(this, array);
    mix(array);
    return array;
  });
  define(prototype, "randomUUID", () => uuid());
  syncBuiltinESMExports();
  reseed();
  Math.random = function random() {
    return draw();
  };
}

/** Seeds Math.random anew. It stays the function that it was: somebody may have kept it. */
export function reseed() {
  draw = generator(new Uint32Array(drawn(16).buffer));
}

function define(target, name, value) {
  Object.defineProperty(target, name, {
    value,
    writable: true,
    enumerable: true,
    configurable: true,
  });
}

function drawn(size) {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; )
    at += readSync(kernel, bytes, at, Math.min(size - at, 1 << 20), null);
  return bytes;
}

function mix(view) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const more = drawn(bytes.length);
  for (let at = 0; at < bytes.length; at++) bytes[at] ^= more[at];
  return view;
}

/** Offset and size count elements, as in randomFill. */
function mixPart(buffer, offset = 0, size = undefined) {
  if (!ArrayBuffer.isView(buffer)) {
    mix(new Uint8Array(buffer, offset, size));
    return;
  }
  const one = buffer.BYTES_PER_ELEMENT ?? 1;
  const length = size === undefined ? buffer.byteLength - offset * one : size * one;
  mix(new Uint8Array(buffer.buffer, buffer.byteOffset + offset * one, length));
}

function between(low, high) {
  const range = high - low;
  const most = 2 ** (8 * INT_BYTES);
  for (;;) {
    const value = Buffer.from(drawn(INT_BYTES).buffer).readUIntLE(0, INT_BYTES);
    if (value < most - (most % range)) return low + (value % range);
  }
}

function uuid() {
  const bytes = drawn(UUID_BYTES);
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Buffer.from(bytes.buffer).toString("hex");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** sfc32, of PractRand: 32 bits a step; a number takes 53 of two. */
function generator([a, b, c, d]) {
  const step = () => {
    const sum = (a + b + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    c |= 0;
    return sum >>> 0;
  };
  for (let at = 0; at < 12; at++) step();
  return () => ((step() >>> 5) * 67108864 + (step() >>> 6)) / 9007199254740992;
}
