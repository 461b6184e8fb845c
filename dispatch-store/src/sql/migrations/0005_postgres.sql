-- dispatch_enqueue as it was, at the same price however much waits: whether somebody must be told is one look at the index,
-- and no plan is made that walks a table because it was empty when it was made or last analysed.
CREATE OR REPLACE FUNCTION dispatch_enqueue(
    queue text,
    payload text,
    id text DEFAULT NULL,
    identity text DEFAULT NULL,
    on_duplicate text DEFAULT 'parallel',
    delay double precision DEFAULT 0,
    priority smallint DEFAULT 0
) RETURNS text LANGUAGE plpgsql SET search_path FROM CURRENT SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_variable
DECLARE
    now_us CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    due CONSTANT bigint := now_us + (greatest(delay, 0) * 1000000)::bigint;
    message CONSTANT text := coalesce(id, gen_random_uuid()::text);
    -- A channel's name has 63 bytes.
    channel CONSTANT text := 'dispatch_' || CASE WHEN octet_length(queue) <= 54 THEN queue ELSE md5(queue) END;
    item bigint;
    told bigint;
BEGIN
    IF on_duplicate NOT IN ('parallel', 'serial', 'queue_one', 'discard') THEN
        RAISE invalid_parameter_value USING MESSAGE =
            format('on_duplicate is %L; there are: parallel, serial, queue_one, discard', on_duplicate);
    ELSIF on_duplicate <> 'parallel' AND identity IS NULL THEN
        RAISE invalid_parameter_value USING MESSAGE = format('on_duplicate => %L needs an identity', on_duplicate);
    END IF;
    IF on_duplicate = 'parallel' THEN
        -- One statement: each costs the same again, and this is the way of nearly all. Whoever waits is told at commit, and only
        -- where nothing else of its priority was there to be taken: then nobody waits. NOTIFY takes a lock that is one for the
        -- whole server. CASE, since what stands beside AND is asked in any order. A priority, since what is due is one stretch
        -- of the index only within it: a crowd of delayed ones is not walked through.
        WITH stored AS (
            INSERT INTO dispatch_item AS i (queue, message_id, payload, priority, run_at, created_at, attempts)
                VALUES (queue, message, convert_to(payload, 'UTF8'), priority, due, now_us, 0) RETURNING i.id
        ), waiting AS (
            INSERT INTO dispatch_ready (queue, priority, run_at, id) SELECT queue, priority, due, stored.id FROM stored
        )
        SELECT count(pg_notify(channel, '')) INTO told WHERE CASE WHEN due <= now_us THEN NOT EXISTS (
            SELECT FROM dispatch_ready o WHERE o.queue = queue AND o.priority = priority AND o.run_at <= now_us LIMIT 1
        ) ELSE false END;
        RETURN message;
    END IF;
    -- One at a time under an identity, to the end of the transaction: until then nobody else sees its row, and numbers must
    -- become visible in their order. Whoever enqueues from Rust takes the same lock.
    PERFORM pg_advisory_xact_lock(1684632432, (hashtextextended(queue || chr(10) || identity, 0) & 1023)::int);
    IF on_duplicate = 'discard' AND EXISTS (SELECT FROM dispatch_item i WHERE i.queue = queue AND i.key = identity) THEN
        RETURN NULL;
    END IF;
    item := nextval('dispatch_item_id_seq');
    INSERT INTO dispatch_ready AS r (queue, priority, run_at, id, key, dedupe)
        VALUES (queue, priority, due, item, identity, CASE WHEN on_duplicate = 'queue_one' THEN identity END)
        ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF due <= now_us THEN
        PERFORM pg_notify(channel, '') WHERE NOT EXISTS (
            SELECT FROM dispatch_ready o
            WHERE o.queue = queue AND o.priority = priority AND o.run_at <= now_us AND o.id <> item LIMIT 1
        );
    END IF;
    INSERT INTO dispatch_item (id, queue, message_id, payload, key, priority, run_at, dedupe, created_at, attempts)
        VALUES (item, queue, message, convert_to(payload, 'UTF8'), identity, priority, due,
            CASE WHEN on_duplicate = 'queue_one' THEN identity END, now_us, 0);
    RETURN message;
END
$$;
