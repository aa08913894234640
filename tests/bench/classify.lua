-- classify.lua: load for wrk: real-looking sentences at mixed ratios.
--
--   wrk -t2 -c64 -d60s --latency -s tests/bench/classify.lua http://127.0.0.1:8080
--
-- Sentences come from tests/data/sst2_dev.tsv (run wrk from the top of the
-- tree); ratios from RATIOS="1 0.5 0.25 0.125" in the environment. Anything but
-- a 200 is counted and shown at the end.
local sentences, ratios, bodies, next_body = {}, {}, {}, 0

for line in io.lines(os.getenv("SENTENCES") or "tests/data/sst2_dev.tsv") do
    local text = line:match("^([^\t]+)\t")
    if text and text ~= "sentence" then
        sentences[#sentences + 1] = text:gsub('[\\"]', "\\%0"):gsub("%c", " ")
    end
end
for ratio in (os.getenv("RATIOS") or "1 0.5 0.25 0.125"):gmatch("%S+") do
    ratios[#ratios + 1] = ratio
end

local threads = {}
function setup(thread)
    thread:set("offset", #threads * 131)
    threads[#threads + 1] = thread
end

function init(args)
    bad = 0
    next_body = offset
    for i = 1, #sentences do
        local body = string.format('{"inputs":"%s","ratio":%s}', sentences[i], ratios[i % #ratios + 1])
        bodies[i] = wrk.format("POST", "/v1/classify", {["Content-Type"] = "application/json"}, body)
    end
end

function request()
    next_body = next_body + 1
    return bodies[next_body % #bodies + 1]
end

function response(status)
    if status ~= 200 then bad = bad + 1 end
end

function done(summary)
    local sum = 0
    for _, thread in ipairs(threads) do sum = sum + thread:get("bad") end
    io.write(string.format("answers other than 200: %d\n", sum))
end
