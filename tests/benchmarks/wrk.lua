-- One POST again and again. BENCH_BODY: a file; BENCH_STATUS and BENCH_EXPECTED (a file): when set, every answer is
-- compared with them, which slows wrk down, so measurements leave it out and count error statuses only.
local function slurp(name)
   local file = assert(io.open(name, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end

wrk.method = "POST"
wrk.body = slurp(os.getenv("BENCH_BODY"))
wrk.headers["Content-Type"] = os.getenv("BENCH_TYPE")

local threads = {}
wrong, seen = 0, 0

function setup(thread)
   table.insert(threads, thread)
end

local status = tonumber(os.getenv("BENCH_STATUS"))
if status then
   local expected = os.getenv("BENCH_EXPECTED") and slurp(os.getenv("BENCH_EXPECTED"))
   function response(got, headers, body)
      seen = seen + 1
      if got ~= status or (expected and body ~= expected) then
         wrong = wrong + 1
      end
   end
end

function done(summary, latency, requests)
   local bad, checked = 0, 0
   for _, thread in ipairs(threads) do
      bad = bad + thread:get("wrong")
      checked = checked + thread:get("seen")
   end
   local errors = summary.errors
   io.write(string.format(
      'BENCH {"requests": %d, "duration_us": %d, "p50_us": %.1f, "p99_us": %.1f, "wrong": %d, "checked": %d, ' ..
      '"refused": %d, "lost": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), bad, checked,
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
