-- What stands before the message itself in a record (broker/record.py): queue, priority, nonce.
local function header(record)
  local priority, queue, nonce = struct.unpack('c1Bc0c4', record)
  return queue, priority, nonce
end
