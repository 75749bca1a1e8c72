-- Take all claims or none. What counters are is in policy/limits.py.
-- KEYS: two for each claim: the counter, and the leases of what is held of it.
-- ARGV: the time in ms, or '' for that of this server; id; ms of a lease;
--       then for each claim: mode, limit, amount, end of the period in ms, seed or ''.
-- Returns: time in ms, use of each counter, refused claims, ms until windows have room, unknown ones.
local WINDOW, SLOTS = 60, 61
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local second, id, lease_ms = math.floor(now / 1000), ARGV[2], tonumber(ARGV[3])

-- Forget the seconds that are older than the window; return what is left.
local function roll(key)
  local state = redis.call('HMGET', key, 's', 't')
  local last, total = tonumber(state[1]), tonumber(state[2] or 0)
  if not last or second - last > WINDOW then
    if last then redis.call('DEL', key) end
    return 0, second
  end
  if second < last - WINDOW then -- the clock was set back: all that counts was just now
    redis.call('DEL', key)
    if total > 0 then
      redis.call('HSET', key, second % SLOTS, total, 's', second, 't', total)
      redis.call('EXPIRE', key, 2 * SLOTS)
    end
    return total, second
  end
  if second <= last then return total, last end
  for passed = last + 1, second do
    local slot = redis.call('HGET', key, passed % SLOTS)
    if slot then
      total = total - slot
      redis.call('HDEL', key, passed % SLOTS)
    end
  end
  redis.call('HSET', key, 's', second, 't', total)
  return total, second
end

-- Give back what was held by those who have not renewed it.
local function expire(key, leases)
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 500)) do
    local amount = redis.call('HGET', key, 'i:' .. dead)
    if amount then
      redis.call('HINCRBY', key, 'h', 0 - amount)
      redis.call('HDEL', key, 'i:' .. dead)
    end
    redis.call('ZREM', leases, dead)
  end
end

local function wait_ms(key, last, total, limit, amount)
  local excess = total + math.min(amount, limit) - limit
  for passed = last - WINDOW, last do
    excess = excess - (redis.call('HGET', key, passed % SLOTS) or 0)
    if excess <= 0 then return (passed + SLOTS) * 1000 - now end
  end
  return WINDOW * 1000
end

local claims, unknown = {}, {}
for i = 1, #KEYS / 2 do
  local base = 3 + (i - 1) * 5
  local claim = {
    key = KEYS[2 * i - 1], leases = KEYS[2 * i], mode = ARGV[base + 1],
    limit = tonumber(ARGV[base + 2]), amount = tonumber(ARGV[base + 3]),
    ends = tonumber(ARGV[base + 4]),
  }
  claims[i] = claim
  if claim.mode == 'budget' and redis.call('HEXISTS', claim.key, 'u') == 0 then
    if ARGV[base + 5] == '' then
      unknown[#unknown + 1] = i - 1
    else
      redis.call('HSET', claim.key, 'u', ARGV[base + 5], 'since', now)
      redis.call('PEXPIREAT', claim.key, claim.ends + 3600000)
    end
  end
end
if #unknown > 0 then return { now, {}, {}, 0, unknown } end

local used, refused, longest = {}, {}, 0
for i, claim in ipairs(claims) do
  if claim.mode == 'window' then
    local total, last = roll(claim.key)
    claim.last, used[i] = last, total
    if claim.limit <= 0 or total + math.min(claim.amount, claim.limit) > claim.limit then
      refused[#refused + 1] = i - 1
      longest = math.max(longest, wait_ms(claim.key, last, total, claim.limit, claim.amount))
    end
  else
    local function has_room()
      local state = redis.call('HMGET', claim.key, 'h', 'u')
      local held = tonumber(state[1] or 0)
      if claim.mode == 'held' then
        used[i] = held
        return held + claim.amount <= claim.limit
      end
      used[i] = tonumber(state[2])
      return used[i] + held < claim.limit
    end
    if not has_room() then
      expire(claim.key, claim.leases)
      if not has_room() then refused[#refused + 1] = i - 1 end
    end
  end
end
if #refused > 0 then return { now, used, refused, longest, {} } end

for i, claim in ipairs(claims) do
  if claim.mode == 'window' then
    redis.call('HINCRBY', claim.key, claim.last % SLOTS, claim.amount)
    used[i] = redis.call('HINCRBY', claim.key, 't', claim.amount)
    redis.call('HSET', claim.key, 's', claim.last)
    redis.call('EXPIRE', claim.key, 2 * SLOTS)
  else
    local before = redis.call('HGET', claim.key, 'i:' .. id) or 0
    redis.call('HSET', claim.key, 'i:' .. id, claim.amount)
    local held = redis.call('HINCRBY', claim.key, 'h', claim.amount - before)
    redis.call('ZADD', claim.leases, now + lease_ms, id)
    if claim.mode == 'held' then
      used[i] = held
      redis.call('PEXPIRE', claim.key, 2 * lease_ms)
    end
    redis.call('PEXPIRE', claim.leases, redis.call('PTTL', claim.key))
  end
end
return { now, used, {}, 0, {} }
