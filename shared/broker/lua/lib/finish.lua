-- uses time
-- Ends a task for good. Kept for `keep` ms, as broker/states.py reads it: letter of the state, letter of the reason,
-- ended_at, nonce; and where there is anything to tell: started_at, deliveries, what it was, what came of it.
local function finish(id, state, reason, nonce, keep, outcome)
  local lived = redis.call('HMGET', live(id), 'started_at', 'deliveries', 'about')
  local over = struct.pack('>c1c1I6c4', state, reason, now, nonce)
  local about = lived[3] or ''
  if about ~= '' or outcome ~= '' then
    over = over .. struct.pack('>I6I4I2', lived[1] or 0, lived[2] or 0, #about) .. about .. outcome
  end
  redis.call('SET', ended(id), over, 'PX', math.max(1, tonumber(keep)), 'NX')
  redis.call('DEL', live(id))
  redis.call('PUBLISH', endings, id)
end
