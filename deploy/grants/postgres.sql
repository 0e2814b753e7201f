-- The least that Reshelve needs of the source. Run as the tables' owner, once for each table that the query reads.
-- SELECT is also what LOCK TABLE … IN ACCESS SHARE MODE needs; nothing is ever written.
create role reshelve login password :'password';
grant connect on database :"database" to reshelve;
grant usage on schema public to reshelve;
grant select on table public.cities, public.countries to reshelve;
-- Row-level security: the reader refuses a table whose policies would hide rows from it. Where a table has some:
--   alter role reshelve bypassrls;
