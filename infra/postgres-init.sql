-- Prefect's database beside MLflow's; its server needs the extension and may not create it itself.
CREATE DATABASE prefect;
\connect prefect
CREATE EXTENSION IF NOT EXISTS pg_trgm;
