-- Put what was used in the place of what was reserved; each reservation is settled once.
-- KEYS: for each reservation its mark, then two for each claim: the counter and its leases.
-- ARGV: the time in ms, or ''; then for each reservation: id, when it was made and when it was over
--       in ms, how many claims, and for each of them: mode, amount reserved, amount used.
-- RECORDED_MS: so much later at most a usage record is in the store.
local WINDOW, SLOTS, MARK_S, RECORDED_MS = 60, 61, 600, 2000
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local second = math.floor(now / 1000)

local function settle_window(key, made, difference)
  local state = redis.call('HMGET', key, 's', 't')
  local last, total = tonumber(state[1]), tonumber(state[2] or 0)
  if difference < 0 then -- give it back to the second in which it was reserved
    if not last or last - made > WINDOW or made > last then return end
    local slot = tonumber(redis.call('HGET', key, made % SLOTS) or 0)
    local given = math.min(-difference, slot)
    redis.call('HINCRBY', key, made % SLOTS, 0 - given)
    redis.call('HINCRBY', key, 't', 0 - given)
  elseif difference > 0 then -- nobody knew of it before: it counts now
    if last and second - last > WINDOW then
      redis.call('DEL', key)
      last = nil
    end
    if last then
      for passed = last + 1, second do
        local slot = redis.call('HGET', key, passed % SLOTS)
        if slot then
          redis.call('HINCRBY', key, 't', 0 - slot)
          redis.call('HDEL', key, passed % SLOTS)
        end
      end
    end
    last = math.max(last or second, second)
    redis.call('HINCRBY', key, last % SLOTS, difference)
    redis.call('HINCRBY', key, 't', difference)
    redis.call('HSET', key, 's', last)
    redis.call('EXPIRE', key, 2 * SLOTS)
  end
end

local k, a = 1, 2
while a <= #ARGV do
  local id, made, over = ARGV[a], math.floor(tonumber(ARGV[a + 1]) / 1000), tonumber(ARGV[a + 2])
  local n = tonumber(ARGV[a + 3])
  local is_first = redis.call('SET', KEYS[k], '1', 'NX', 'EX', MARK_S)
  k, a = k + 1, a + 4
  for _ = 1, n do
    local key, leases, mode = KEYS[k], KEYS[k + 1], ARGV[a]
    local reserved, used = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
    k, a = k + 2, a + 3
    if is_first and mode == 'window' then
      settle_window(key, made, used - reserved)
    elseif is_first then
      local held = redis.call('HGET', key, 'i:' .. id)
      if held then
        redis.call('HINCRBY', key, 'h', 0 - held)
        redis.call('HDEL', key, 'i:' .. id)
        redis.call('ZREM', leases, id)
      end
      -- A budget whose counter is gone is seeded with what the records say; a request that was over
      -- before it was seeded, and is not held here, is in them.
      local since = mode == 'budget' and tonumber(redis.call('HGET', key, 'since'))
      if since and (held or over > since - RECORDED_MS) then
        redis.call('HINCRBY', key, 'u', used)
      end
    end
  end
end
return 1
