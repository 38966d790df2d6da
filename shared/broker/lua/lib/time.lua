-- Redis's clock, the only one that decides: `now` in ms, `now_us` in µs.
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)
local MINUTE = 60 * 1000
local DAY = 24 * 60 * MINUTE
