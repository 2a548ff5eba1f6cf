-- What wrk runs: it sends for a while, lets every request be answered, and counts the answers by what they say.
--
-- Arguments: seconds to send, content type, file with the bodies, "one" or "lines", token of this run. Of "lines", each
-- request gets the next, from the first again after the last. Where the one body holds PLACEHOLDER (of bench/load.py),
-- each request gets the token and a number in its place, so that no two bodies are the same.
--
-- Whatever can be made ready is made in init(): wrk shares the machine with what it measures.

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
promised, answered, cached, fresh, missed, elapsed, cpu = 0, 0, 0, 0, 0, 0, 0

local seconds, started, cpu_before

local function send_in_turn(bodies)
  local requests, at = {}, 0
  for body in bodies:gmatch("[^\n]+") do
    requests[#requests + 1] = wrk.format(nil, nil, nil, body)
  end
  function request()
    at = at % #requests + 1
    return requests[at]
  end
end

local function send_numbered(body, token)
  local whole = wrk.format(nil, nil, nil, body)
  local first, last = whole:find(PLACEHOLDER, 1, true)
  local before, after = whole:sub(1, first - 1) .. token, whole:sub(last + 1)
  local number = 0
  function request()
    number = number + 1
    return before .. string.format("%016x", number) .. after
  end
end

function init(args)
  seconds = tonumber(args[1])
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[2]
  local file = assert(io.open(args[3], "rb"))
  local body = file:read("*a")
  file:close()
  if args[4] == "lines" then
    send_in_turn(body)
  elseif body:find(PLACEHOLDER, 1, true) then
    send_numbered(body, args[5])
  else
    -- Without request(), wrk sends the same bytes each time and does not ask.
    wrk.body = body
  end
end

-- wrk asks this once before each request, also before a connection's first, and after each answer.
function delay()
  local time = now()
  if not started then
    started, cpu_before = time, os.clock()
  end
  if time - started >= seconds then
    if answered == promised then
      cpu = os.clock() - cpu_before
      io.write("drained\n")
      io.flush()
      wrk.thread:stop()
    end
    return NEVER_MS
  end
  promised = promised + 1
  return 0
end

function response(status, headers, text)
  answered = answered + 1
  elapsed = now() - started
  if status == 200 and text:find('"from_cache":true', 1, true) then
    cached = cached + 1
  elseif status == 200 and text:find('"from_cache":false', 1, true) then
    fresh = fresh + 1
  elseif status == 200 and text:find('"cached":false', 1, true) then
    missed = missed + 1
  elseif answered == cached + fresh + missed + 1 then
    io.write(string.format("unexpected %d %s\n", status, text:sub(1, 300):gsub("%s+", " ")))
  end
end

function done(summary, latency, requests)
  local thread = threads[1]
  local errors = summary.errors
  io.write(string.format(
    '\nresult {"promised": %d, "answered": %d, "cached": %d, "fresh": %d, "missed": %d, "socket_errors": %d, '
      .. '"elapsed_seconds": %.6f, "cpu_seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    thread:get("promised"), thread:get("answered"),
    thread:get("cached"), thread:get("fresh"), thread:get("missed"),
    errors.connect + errors.read + errors.write + errors.timeout,
    thread:get("elapsed"), thread:get("cpu"), latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
