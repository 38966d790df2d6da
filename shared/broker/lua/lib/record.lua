-- What stands before the message itself in a record (broker/record.py): queue, priority, nonce. Nothing where that
-- cannot be read.
local function header(record)
  local is_whole, priority, queue, nonce = pcall(struct.unpack, 'c1Bc0c4', record)
  if is_whole and tonumber(priority) then return queue, priority, nonce end
end
