-- infinity.lua: the load of classify.lua for infinity_emb's /classify.
--
--   wrk -t1 -c64 -d20s --latency -s tests/bench/infinity.lua http://127.0.0.1:7997
--
-- MODEL in the environment is the name that its /models gives.
local bodies, next_body, bad = {}, 0, 0

for line in io.lines(os.getenv("SENTENCES") or "tests/data/sst2_dev.tsv") do
    local text = line:match("^([^\t]+)\t")
    if text and text ~= "sentence" then
        text = text:gsub('[\\"]', "\\%0"):gsub("%c", " ")
        bodies[#bodies + 1] = string.format('{"model":"%s","input":["%s"]}', os.getenv("MODEL"), text)
    end
end

local threads = {}
function setup(thread) threads[#threads + 1] = thread end

function init(args) bad = 0 end

function request()
    next_body = next_body % #bodies + 1
    return wrk.format("POST", "/classify", {["Content-Type"] = "application/json"}, bodies[next_body])
end

function response(status)
    if status ~= 200 then bad = bad + 1 end
end

function done(summary)
    local sum = 0
    for _, thread in ipairs(threads) do sum = sum + thread:get("bad") end
    io.write(string.format("answers other than 200: %d\n", sum))
end
