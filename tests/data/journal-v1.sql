-- A journal of format 1, as omega-sessiond 0.1.0 wrote it. It must load for ever: never edit it.
PRAGMA application_id = 1869440359;
PRAGMA user_version = 1;
PRAGMA foreign_keys = OFF;
BEGIN TRANSACTION;
CREATE TABLE events (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                session_id TEXT NOT NULL,
                execution_id INTEGER,    -- NULL for execution_queued, whose execution has its id
                body BLOB                -- the JSON of every other event than those told from their tables
            ) STRICT
            ;
INSERT INTO "events" VALUES(1,'aaaaaaaaaaaa',NULL,X'7B226B696E64223A2273657373696F6E5F63726561746564222C226174223A22323032362D30312D30315430393A30303A30302E3030303030305A222C2273657373696F6E5F6964223A22616161616161616161616161222C2273657373696F6E223A22776F726B222C22656E67696E65223A22707974686F6E222C226C6162656C73223A7B227465616D223A22626CC3A5227D7D');
INSERT INTO "events" VALUES(2,'bbbbbbbbbbbb',NULL,X'7B226B696E64223A2273657373696F6E5F63726561746564222C226174223A22323032362D30312D30315430393A30303A30312E3030303030305A222C2273657373696F6E5F6964223A22626262626262626262626262222C2273657373696F6E223A2264656164222C22656E67696E65223A2262617368222C226C6162656C73223A7B7D7D');
INSERT INTO "events" VALUES(4,'aaaaaaaaaaaa',NULL,NULL);
INSERT INTO "events" VALUES(5,'aaaaaaaaaaaa',4,NULL);
INSERT INTO "events" VALUES(6,'aaaaaaaaaaaa',4,NULL);
INSERT INTO "events" VALUES(7,'aaaaaaaaaaaa',4,X'7B226B696E64223A22696E7075745F726571756573746564222C226174223A22323032362D30312D30315430393A30303A31312E3030303030305A222C2273657373696F6E5F6964223A22616161616161616161616161222C2273657373696F6E223A22776F726B222C22657865637574696F6E5F6964223A342C2270726F6D7074223A226E616D653F20222C22736563726574223A66616C73657D');
INSERT INTO "events" VALUES(8,'aaaaaaaaaaaa',4,X'7B226B696E64223A22696E7075745F616E737765726564222C226174223A22323032362D30312D30315430393A30303A31322E3030303030305A222C2273657373696F6E5F6964223A22616161616161616161616161222C2273657373696F6E223A22776F726B222C22657865637574696F6E5F6964223A342C2274657874223A226D65227D');
INSERT INTO "events" VALUES(9,'aaaaaaaaaaaa',4,NULL);
INSERT INTO "events" VALUES(10,'aaaaaaaaaaaa',4,NULL);
INSERT INTO "events" VALUES(11,'aaaaaaaaaaaa',4,NULL);
INSERT INTO "events" VALUES(12,'aaaaaaaaaaaa',NULL,NULL);
INSERT INTO "events" VALUES(13,'aaaaaaaaaaaa',12,NULL);
INSERT INTO "events" VALUES(14,'aaaaaaaaaaaa',12,NULL);
INSERT INTO "events" VALUES(15,'aaaaaaaaaaaa',12,NULL);
INSERT INTO "events" VALUES(19,'cccccccccccc',NULL,X'7B226B696E64223A2273657373696F6E5F64656C65746564222C226174223A22323032362D30312D30315430393A30303A32362E3030303030305A222C2273657373696F6E5F6964223A22636363636363636363636363222C2273657373696F6E223A22676F6E65227D');
INSERT INTO "events" VALUES(20,'aaaaaaaaaaaa',NULL,NULL);
INSERT INTO "events" VALUES(21,'aaaaaaaaaaaa',20,NULL);
INSERT INTO "events" VALUES(22,'aaaaaaaaaaaa',NULL,NULL);
INSERT INTO "events" VALUES(23,'aaaaaaaaaaaa',22,NULL);
INSERT INTO "events" VALUES(24,'aaaaaaaaaaaa',NULL,NULL);
INSERT INTO "events" VALUES(25,'aaaaaaaaaaaa',NULL,X'7B226B696E64223A226C6174655F6F7574707574222C226174223A22323032362D30312D30315430393A30303A34322E3030303030305A222C2273657373696F6E5F6964223A22616161616161616161616161222C2273657373696F6E223A22776F726B222C2273747265616D223A227374646F7574222C2274657874223A226C6174655C6E227D');
CREATE TABLE executions (
                id INTEGER PRIMARY KEY,    -- that of its execution_queued event
                started_event_id INTEGER,
                finished_event_id INTEGER,
                session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
                status TEXT NOT NULL CHECK (
                    status = 'queued' OR status = 'running' OR status = 'waiting_input' OR status = 'ok'
                    OR status = 'error' OR status = 'interrupted' OR status = 'died' OR status = 'cancelled'
                ),
                reason TEXT,
                execution_count INTEGER,
                queued_at TEXT NOT NULL,
                started_at TEXT,
                finished_at TEXT,
                duration_ms REAL,
                timeout_s REAL,
                displayed INTEGER NOT NULL DEFAULT 0 CHECK (displayed IN (0, 1)),
                should_exit INTEGER NOT NULL DEFAULT 0 CHECK (should_exit IN (0, 1)),
                dropped_bytes INTEGER NOT NULL DEFAULT 0 CHECK (dropped_bytes >= 0),
                resumed_from TEXT,
                lost TEXT CHECK (lost IS NULL OR json_valid(lost)),
                idempotency_key TEXT,
                error TEXT CHECK (error IS NULL OR json_valid(error)),
                command TEXT NOT NULL,
                CHECK ((finished_at IS NULL) = (status = 'queued' OR status = 'running' OR status = 'waiting_input'))
            ) STRICT
            ;
INSERT INTO "executions" VALUES(4,5,11,'aaaaaaaaaaaa','ok',NULL,1,'2026-01-01T09:00:10.000000Z','2026-01-01T09:00:10.000000Z','2026-01-01T09:00:13.000000Z',3000.5,60.0,0,0,982,NULL,NULL,'key-1',NULL,'print(''grüß'', input())');
INSERT INTO "executions" VALUES(12,13,15,'aaaaaaaaaaaa','error',NULL,2,'2026-01-01T09:00:20.000000Z','2026-01-01T09:00:21.000000Z','2026-01-01T09:00:22.000000Z',0.25,NULL,0,1,0,'snapshot-1','{"variables":["x"],"reason":"restored"}',NULL,'{"name":"ZeroDivisionError","message":"division by zero","traceback":"Traceback…"}','1/0');
INSERT INTO "executions" VALUES(20,NULL,21,'aaaaaaaaaaaa','cancelled','user',NULL,'2026-01-01T09:00:30.000000Z',NULL,'2026-01-01T09:00:31.000000Z',NULL,NULL,0,0,0,NULL,NULL,NULL,NULL,'never()');
INSERT INTO "executions" VALUES(22,23,NULL,'aaaaaaaaaaaa','running',NULL,NULL,'2026-01-01T09:00:40.000000Z','2026-01-01T09:00:40.000000Z',NULL,NULL,NULL,0,0,0,NULL,NULL,'key-3',NULL,'time.sleep(9)');
INSERT INTO "executions" VALUES(24,NULL,NULL,'aaaaaaaaaaaa','queued',NULL,NULL,'2026-01-01T09:00:41.000000Z',NULL,NULL,NULL,NULL,0,0,0,NULL,NULL,NULL,NULL,'later');
CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL, applied_by TEXT NOT NULL) STRICT;
INSERT INTO "migrations" VALUES(1,'sessions, executions, output, events','2026-01-01T08:00:00.000000Z','0.1.0');
CREATE TABLE output (
                event_id INTEGER PRIMARY KEY,
                execution_id INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
                offset INTEGER NOT NULL CHECK (offset >= 0),    -- in bytes of the execution's combined output
                stream TEXT NOT NULL CHECK (
                    stream = 'stdout' OR stream = 'stderr' OR stream = 'result' OR stream = 'traceback'
                ),
                at TEXT NOT NULL,
                text BLOB NOT NULL CHECK (length(text) > 0)    -- UTF-8: a BLOB is measured and cut in bytes
            ) STRICT
            ;
INSERT INTO "output" VALUES(6,4,0,'stdout','2026-01-01T09:00:11.000000Z',X'6772C3BCC39F20');
INSERT INTO "output" VALUES(9,4,7,'stderr','2026-01-01T09:00:13.000000Z',X'E2869220E697A5E69CAC0A');
INSERT INTO "output" VALUES(10,4,1000,'stdout','2026-01-01T09:00:13.000000Z',X'7461696C0A');
INSERT INTO "output" VALUES(14,12,0,'traceback','2026-01-01T09:00:22.000000Z',X'5A65726F4469766973696F6E4572726F723A206469766973696F6E206279207A65726F0A');
CREATE TABLE sessions (
                id TEXT PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                engine TEXT NOT NULL,
                python TEXT,
                cwd TEXT NOT NULL,
                created_at TEXT NOT NULL,
                last_used_at TEXT NOT NULL,
                execution_count INTEGER NOT NULL CHECK (execution_count >= 0),
                limits TEXT NOT NULL CHECK (json_valid(limits)),
                labels TEXT NOT NULL CHECK (json_valid(labels)),
                state_reason TEXT,
                lost TEXT CHECK (lost IS NULL OR json_valid(lost)),
                host TEXT CHECK (host IS NULL OR json_valid(host)),
                host_seq INTEGER NOT NULL CHECK (host_seq >= 0),
                finished_up_to INTEGER NOT NULL DEFAULT 0    -- no execution up to this id is unfinished; lags behind
            ) STRICT, WITHOUT ROWID
            ;
INSERT INTO "sessions" VALUES('aaaaaaaaaaaa','work','python','/usr/bin/python3.9','/home/user','2026-01-01T09:00:00.000000Z','2026-01-01T09:00:00.000000Z',2,'{"memory_bytes":1073741824,"tasks":null,"cpu_weight":50}','{"team":"blå"}',NULL,NULL,'{"pid":4242,"start_time":99,"boot_id":"0b0e9a8c-7d5e-4f3a-9c1b-000000000001","scope":"omega-session-work.scope","engine_version":"3.9.18"}',7,21);
INSERT INTO "sessions" VALUES('bbbbbbbbbbbb','dead','bash',NULL,'/','2026-01-01T09:00:01.000000Z','2026-01-01T09:00:01.000000Z',0,'{"memory_bytes":null,"tasks":null,"cpu_weight":null}','{}','probably out of memory','{"variables":"all","reason":"probably out of memory"}',NULL,0,0);
CREATE INDEX executions_of_session ON executions (session_id);
CREATE UNIQUE INDEX executions_by_key ON executions (session_id, idempotency_key)
            WHERE idempotency_key IS NOT NULL
            ;
CREATE INDEX output_in_order ON output (execution_id, offset);
CREATE INDEX events_of_execution ON events (execution_id)
            WHERE execution_id IS NOT NULL AND body IS NOT NULL
            ;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('events',25);
COMMIT;
