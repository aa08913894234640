-- generate.lua: load for wrk: texts that a text-to-text model is to answer, at one ratio.
--
--   RATIO=0.25 wrk -t1 -c8 -d10s --latency -s tests/bench/generate.lua http://127.0.0.1:8080
--
-- Sentences come from tests/data/sst2_dev.tsv (run wrk from the top of the tree); TASK (sst2),
-- RATIO (1) and MAX_NEW_TOKENS (64) from the environment. Prints the tokens generated a second;
-- anything but a 200 is counted and shown at the end.
local bodies, next_body = {}, 0
local task, ratio = os.getenv("TASK") or "sst2", os.getenv("RATIO") or "1"
local most = os.getenv("MAX_NEW_TOKENS") or "64"
local threads = {}

function setup(thread)
    thread:set("offset", #threads * 131)
    threads[#threads + 1] = thread
end

function init(args)
    bad, tokens = 0, 0
    next_body = offset
    for line in io.lines(os.getenv("SENTENCES") or "tests/data/sst2_dev.tsv") do
        local text = line:match("^([^\t]+)\t")
        if text and text ~= "sentence" then
            text = text:gsub('[\\"]', "\\%0"):gsub("%c", " ")
            local body = string.format('{"inputs":"%s","task":"%s","ratio":%s,"max_new_tokens":%s}',
                                       text, task, ratio, most)
            bodies[#bodies + 1] = wrk.format("POST", "/v1/generate",
                                             {["Content-Type"] = "application/json"}, body)
        end
    end
end

function request()
    next_body = next_body + 1
    return bodies[next_body % #bodies + 1]
end

function response(status, headers, body)
    if status ~= 200 then
        bad = bad + 1
    end
    for n in body:gmatch('"text":"[^"]*","tokens":(%d+)') do
        tokens = tokens + tonumber(n)
    end
end

function done(summary, latency, requests)
    local all, failed = 0, 0
    for _, thread in ipairs(threads) do
        all = all + thread:get("tokens")
        failed = failed + thread:get("bad")
    end
    print(string.format("tokens generated: %d, %.0f a second; answers other than 200: %d", all,
                        all * 1e6 / summary.duration, failed))
end
