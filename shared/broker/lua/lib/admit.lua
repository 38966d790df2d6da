-- uses record, schedule
-- Takes a new task in. Answers '' or, where its id is taken, the state of the task that has it; a call that repeats
-- itself (the same nonce) is answered as the first time.
local function admit(id, due, record)
  local queue, priority, nonce = header(record)
  local over = redis.call('GET', ended(id))
  if over then
    return string.sub(over, 9, 12) == nonce and '' or string.sub(over, 1, 1)
  end
  if redis.call('HSETNX', messages, id, record) == 0 then
    local _, _, first = header(redis.call('HGET', messages, id))
    return first == nonce and '' or redis.call('HGET', live(id), 'state') or 'PENDING'
  end
  schedule(id, queue, priority, due)
  return ''
end
