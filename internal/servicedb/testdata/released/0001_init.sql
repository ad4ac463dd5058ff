-- Rows as a castellan with the schema 0001_init leaves them. They must survive every later migration.
INSERT INTO targets (name, kind, owner, policy, spec, exclusion_group, declared, observed, paused, fingerprint, fingerprint_epoch, fingerprint_at,
    due_at, due_epoch, due_set_at, held_until, held_at, held_by, hold_reason, failures, last_rotation, last_epoch, last_state, updated_at)
VALUES ('api', 'tlscert', 'web', 'daily', 'spec-1', 'edge', TRUE, FALSE, FALSE, 'bbbb', 7, 1772366700000000,
    1772424000000000, 7, 1772366880000000, 1772427600000000, 1772366940000000, 'run-2', 'the issuer is down', 2, 'api@7', 7, 'RETIRED', 1772366940000000);
INSERT INTO targets (name, declared, removed_at) VALUES ('gone', FALSE, 1772366400000000);
INSERT INTO credentials (target, fingerprint, serial, not_before, not_after, key_algorithm)
VALUES ('api', 'aaaa', '66', NULL, 1772370000000000, 'rsa-2048'), ('api', 'bbbb', '77', 1772366400000000, 253402300799000000, 'ecdsa-p256');
INSERT INTO rotations (rotation, target, epoch, state, state_at, state_epoch, trigger_source, trigger_actor, trigger_reason, workflow, run,
    started_at, updated_at, published_at, ended_at, candidate, candidate_at, key_id, previous, sentence, sentence_at, stragglers, stragglers_at)
VALUES ('api@7', 'api', 7, 'RETIRED', 1772366880000000, 7, 'operator', 'ana', 'because', 'rotate/api', 'run-1',
    1772366400000000, 1772366880000000, 1772366700000000, 1772366880000000, 'bbbb', 1772366520000000, 'k7', 'aaaa', 'done', 1772366880000000,
    '[{"consumer":"web","address":"10.0.0.1:443","standing":"previous"}]', 1772366760000000);
INSERT INTO consumers (target, consumer, address, standing, serves, detail, since, seen_at)
VALUES ('api', 'web', '10.0.0.1:443', 'previous', 'aaaa', 'a straggler', 1772366700000000, 1772366760000000);
INSERT INTO schedule_successes (schedule, last_success_at, last_started_at) VALUES ('sweep', 1772366400000000, NULL);
INSERT INTO issued_not_received (target, rotation, serial, at) VALUES ('api', 'api@7', 'unknown', 1772366400000000);
