-- Run as root where scripts/services or docker-compose.yml sets MariaDB up: the tests' user may
-- create databases, for each test has its own.
CREATE DATABASE IF NOT EXISTS lockstep CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS lockstep@'%' IDENTIFIED BY 'lockstep';
GRANT ALL PRIVILEGES ON *.* TO lockstep@'%';
