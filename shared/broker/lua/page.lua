#!lua flags=no-writes
-- Lists ids of several queues in the order of their scores. ARGV: which set of each queue ('alone', 'due_set', 'recent',
-- 'dead', or the priority of a ready one), '1' for the last first, how many at most of each, score and id of the one
-- that the page before has ended with ('': none), queues. Answers for each queue ids, each with its score.
-- Where the page goes on is found in some twenty steps, also where that one is gone and a million share its score.
local sets = {alone = alone, due_set = due_set, recent = recent, dead = dead}
local is_last_first, count, score, after = ARGV[2] == '1', tonumber(ARGV[3]), ARGV[4], ARGV[5]

-- As Redis sorts members: by their bytes, whatever the locale of its Lua.
local function is_before(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then return a < b end
  end
  return #one < #other
end

local function passed_over(set)
  if score == '' then return 0 end
  local first = redis.call('ZCOUNT', set, '-inf', '(' .. score)
  local low, high = first, first + redis.call('ZCOUNT', set, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local member = redis.call('ZRANGE', set, middle, middle)[1]
    if is_before(member, after) or (not is_last_first and member == after) then low = middle + 1 else high = middle end
  end
  return is_last_first and redis.call('ZCARD', set) - low or low
end

local answers = {}
for i = 6, #ARGV do
  local make = sets[ARGV[1]]
  local set = make and make(ARGV[i]) or ready(ARGV[i], ARGV[1])
  local passed = passed_over(set)
  answers[#answers + 1] =
    redis.call(is_last_first and 'ZREVRANGE' or 'ZRANGE', set, passed, passed + count - 1, 'WITHSCORES')
end
return answers
