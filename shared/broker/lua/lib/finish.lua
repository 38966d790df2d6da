-- uses time
-- Ends a task for good. Kept for `keep` ms, as broker/states.py reads it: letter of the state, letter of the reason,
-- ended_at, nonce; and where there is anything to tell: started_at, deliveries, what it was, its last progress, what came
-- of it. Of one of which nothing is to be told only the tombstone is left, and no list has it.
local RECENT = 10000

local function finish(id, queue, state, reason, nonce, keep, outcome)
  local lived = redis.call('HMGET', live(id), 'started_at', 'deliveries', 'about', 'progress')
  local over = struct.pack('>c1c1I6c4', state, reason, now, nonce)
  local about, progress = lived[3] or '', lived[4] or ''
  if about ~= '' or outcome ~= '' then
    local counts = struct.pack('>I6I4', lived[1] or 0, lived[2] or 0)
    over = over .. counts .. struct.pack('>I2', #about) .. about .. struct.pack('>I2', #progress) .. progress .. outcome
    redis.call('ZADD', recent(queue), now, id)
    redis.call('ZREMRANGEBYRANK', recent(queue), 0, -1 - RECENT)
  end
  redis.call('SET', ended(id), over, 'PX', math.max(1, tonumber(keep)), 'NX')
  redis.call('DEL', live(id))
  redis.call('PUBLISH', ending(id), over)
end
