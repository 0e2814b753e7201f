-- The least that Reshelve needs of the source. Run as a superuser, or as who owns the tables and makes roles
create role reshelve login;  -- and let it log in as it shall: pg_hba.conf, a password
grant connect on database :"database" to reshelve;
grant usage on schema public to reshelve;
-- SELECT is also what LOCK TABLE … IN ACCESS SHARE MODE needs: no table is ever written to.
grant select on table public.cities, public.countries to reshelve;
-- The server's identity, by which a restored or failed-over source is known.
grant execute on function pg_catalog.pg_control_system() to reshelve;
-- Row-level security: a table whose policies would hide rows from the role is refused. Where one has some:
--   alter role reshelve bypassrls;
-- For `changes: replication`. REPLICATION is a superuser's to give; on Amazon RDS it is
--   grant rds_replication to reshelve;
alter role reshelve replication;
-- Only owners of tables can publish them, so their owner makes the publication that the spec names.
create publication search_changes for table public.cities, public.countries
  with (publish_via_partition_root = true);
-- A table without primary key, or one of which a lookup needs other columns than those of its key, must log
-- them; `reshelve check` prints the statement, for instance: alter table … replica identity full;
