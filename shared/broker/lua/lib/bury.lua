-- uses time, finish
-- Dead letters: a task that has ended as FAILURE and whose message is kept for a week. How it ended is known a day
-- longer: a letter without its end would be taken for a task that waits.
local WEEK = 7 * DAY

local function bury(queue, id, nonce, keep, outcome)
  finish(id, queue, 'F', '-', nonce, math.max(tonumber(keep), WEEK + DAY), outcome)
  redis.call('ZADD', dead(queue), now, id)
end

local function let_go(queue)
  for _, old in ipairs(redis.call('ZRANGE', dead(queue), '-inf', now - WEEK, 'BYSCORE', 'LIMIT', 0, 100)) do
    redis.call('ZREM', dead(queue), old)
    redis.call('HDEL', messages, old)
  end
end
