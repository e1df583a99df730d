-- Reads batches of a log from the stream id `from` on, until they have `enough_bytes`.
-- Answers {tenant, header, len, tenant in the gone key, whether there is more, batches}. The tenant is empty if there is no such
-- response.
local meta_key, gone_key, log_key = KEYS[1], KEYS[2], KEYS[3]
local from, enough_bytes, with_header = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'

local tenant, len = unpack(redis.call('HMGET', meta_key, 'tenant', 'len'))
local header = with_header and redis.call('HGET', meta_key, 'header') or ''
local gone = redis.call('GET', gone_key) or ''
if not tenant then return {'', '', 0, gone, 0, {}} end
local batches, bytes, count, more = {}, 0, 8, 0
repeat
  local range = redis.call('XRANGE', log_key, from, '+', 'COUNT', count)
  for _, item in ipairs(range) do
    if bytes >= enough_bytes then
      more = 1
      break
    end
    local id, batch = item[1], item[2][2]
    batches[#batches + 1] = batch
    bytes = bytes + #batch
    from = '(' .. id
  end
  local all = #range < count
  count = math.min(2 * count, 512)
until all or more == 1
return {tenant, header, tonumber(len), gone, more, batches}
