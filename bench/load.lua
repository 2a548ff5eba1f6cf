-- What wrk runs: it sends for a while, lets every request be answered, and counts the answers by what they say.
--
-- Arguments: seconds to send, content type, file with the body, token of this run. Where the body holds PLACEHOLDER
-- (of bench/load.py), each request gets the token and a number in its place, so that no two bodies are the same.

local ffi = require("ffi")
ffi.cdef([[
typedef struct { long seconds; long nanoseconds; } bench_time;
int clock_gettime(int clock, bench_time *time);
]])
local CLOCK_MONOTONIC = 1 -- linux/time.h
local PLACEHOLDER = "<bench: another photo each time>"
-- Longer than any run: a connection that is told to wait this long sends no more.
local NEVER_MS = 3600000

local moment = ffi.new("bench_time")
local function now()
  ffi.C.clock_gettime(CLOCK_MONOTONIC, moment)
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

local threads = {}
function setup(thread)
  threads[#threads + 1] = thread
end

-- Globals of the one thread, which done() reads.
promised, answered, cached, fresh, elapsed = 0, 0, 0, 0, 0

local seconds, body, before, after, token, constant, started
local number = 0

function init(args)
  seconds = tonumber(args[1])
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[2]
  local file = assert(io.open(args[3], "rb"))
  body = file:read("*a")
  file:close()
  token = args[4]
  local first, last = body:find(PLACEHOLDER, 1, true)
  if first then
    before, after = body:sub(1, first - 1), body:sub(last + 1)
  else
    constant = wrk.format(nil, nil, nil, body)
  end
end

-- wrk asks this once before each request, also before a connection's first, and after each answer.
function delay()
  started = started or now()
  if now() - started >= seconds then
    if answered == promised then
      io.write("drained\n")
      io.flush()
      wrk.thread:stop()
    end
    return NEVER_MS
  end
  promised = promised + 1
  return 0
end

function request()
  if constant then
    return constant
  end
  number = number + 1
  return wrk.format(nil, nil, nil, before .. token .. string.format("%016x", number) .. after)
end

function response(status, headers, text)
  answered = answered + 1
  elapsed = now() - started
  if status == 200 and text:find('"from_cache":true', 1, true) then
    cached = cached + 1
  elseif status == 200 and text:find('"from_cache":false', 1, true) then
    fresh = fresh + 1
  elseif answered == cached + fresh + 1 then
    io.write(string.format("unexpected %d %s\n", status, text:sub(1, 300):gsub("%s+", " ")))
  end
end

function done(summary, latency, requests)
  local thread = threads[1]
  local errors = summary.errors
  io.write(string.format(
    '\nresult {"promised": %d, "answered": %d, "cached": %d, "fresh": %d, "socket_errors": %d, '
      .. '"elapsed_seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    thread:get("promised"), thread:get("answered"), thread:get("cached"), thread:get("fresh"),
    errors.connect + errors.read + errors.write + errors.timeout,
    thread:get("elapsed"), latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
