-- What wrk runs for bench/overload.py: it counts answers by status. Arguments: content type, file with the body, token.
-- Where the body holds PLACEHOLDER (of bench/load.py), each request gets the token and a number in its place.

local PLACEHOLDER = "<bench: another photo each time>"
local threads = {}
function setup(thread)
  threads[#threads + 1] = thread
end

ok, full, other = 0, 0, 0

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[1]
  local file = assert(io.open(args[2], "rb"))
  local body = file:read("*a")
  file:close()
  if args[4] == "close" then
    wrk.headers["Connection"] = "close"
  end
  local whole = wrk.format(nil, nil, nil, body)
  local first, last = whole:find(PLACEHOLDER, 1, true)
  if not first then
    wrk.body = body
    return
  end
  local before, after = whole:sub(1, first - 1) .. args[3], whole:sub(last + 1)
  local number = 0
  function request()
    number = number + 1
    return before .. string.format("%016x", number) .. after
  end
end

function response(status, headers, text)
  if status == 200 then
    ok = ok + 1
  elseif status == 503 and headers["retry-after"] then
    full = full + 1
  else
    other = other + 1
  end
end

function done(summary, latency, requests)
  local thread, errors = threads[1], summary.errors
  io.write(string.format(
    '\nresult {"ok": %d, "full": %d, "other": %d, "socket_errors": %d, "seconds": %.3f, "p50_ms": %.1f, "p99_ms": %.1f}\n',
    thread:get("ok"), thread:get("full"), thread:get("other"),
    errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
