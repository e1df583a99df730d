-- Removes all uses that begin with `beginning`: the uses of one prompt with all models.
-- Answers 1.
local hot = KEYS[1]
local beginning = ARGV[1]

for _, use in ipairs(redis.call('ZRANGE', hot, 0, -1)) do
  if string.sub(use, 1, #beginning) == beginning then redis.call('ZREM', hot, use) end
end
return 1
