-- Puts one task into a durable queue, within the caller's transaction.
--
-- queue         the queue's name
-- payload       the message, as text: it may hold what jsonb refuses (NaN, lone surrogates)
-- id            the message's id, which is its idempotency key; a random uuid unless given
-- identity      what makes two messages duplicates of each other; needed for every on_duplicate but 'parallel'
-- on_duplicate  'parallel'   no regard to others
--               'serial'     one of an identity at a time, the others wait
--               'queue_one'  as serial, and at most one waits
--               'discard'    none while another waits or is at work
-- delay         seconds until it may be taken
-- priority      higher goes first
--
-- Answers with the id, or NULL where the message was dropped as a duplicate.
CREATE FUNCTION dispatch_enqueue(
    queue text,
    payload text,
    id text DEFAULT NULL,
    identity text DEFAULT NULL,
    on_duplicate text DEFAULT 'parallel',
    delay double precision DEFAULT 0,
    priority smallint DEFAULT 0
) RETURNS text LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_variable
DECLARE
    now_us CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    due CONSTANT bigint := now_us + (greatest(delay, 0) * 1000000)::bigint;
    message CONSTANT text := coalesce(id, gen_random_uuid()::text);
    item bigint;
BEGIN
    IF on_duplicate NOT IN ('parallel', 'serial', 'queue_one', 'discard') THEN
        RAISE invalid_parameter_value USING MESSAGE =
            format('on_duplicate is %L; there are: parallel, serial, queue_one, discard', on_duplicate);
    ELSIF on_duplicate <> 'parallel' AND identity IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('on_duplicate => %L needs an identity', on_duplicate);
    END IF;
    IF on_duplicate <> 'parallel' THEN
        -- One at a time under an identity, to the end of the transaction: until then nobody else sees its row, and numbers
        -- must become visible in their order. Whoever enqueues from Rust takes the same lock.
        PERFORM pg_advisory_xact_lock(1684632432, (hashtextextended(queue || chr(10) || identity, 0) & 1023)::int);
    END IF;
    IF on_duplicate = 'discard' AND EXISTS (SELECT FROM dispatch_item i WHERE i.queue = queue AND i.key = identity) THEN
        RETURN NULL;
    END IF;
    item := nextval('dispatch_item_id_seq');
    INSERT INTO dispatch_ready AS r (queue, priority, run_at, id, key, dedupe)
        VALUES (queue, priority, due, item, CASE WHEN on_duplicate <> 'parallel' THEN identity END,
            CASE WHEN on_duplicate = 'queue_one' THEN identity END)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- Whoever waits is told at commit, and only where nothing else was there to be taken: then nobody waits. NOTIFY takes a
    -- lock that is one for the whole server.
    IF due <= now_us AND NOT EXISTS (
        SELECT FROM dispatch_ready o WHERE o.queue = queue AND o.run_at <= now_us AND o.id <> item LIMIT 1
    ) THEN
        PERFORM pg_notify('dispatch_' || md5(queue), '');
    END IF;
    INSERT INTO dispatch_item (id, queue, message_id, payload, key, priority, run_at, dedupe, created_at, attempts)
        VALUES (item, queue, message, convert_to(payload, 'UTF8'), CASE WHEN on_duplicate <> 'parallel' THEN identity END,
            priority, due, CASE WHEN on_duplicate = 'queue_one' THEN identity END, now_us, 0);
    RETURN message;
END
$$;
