// Package source is a module of its own, because a server has hundreds of
// dependencies: its go.mod says what OpenBao is built of. Package openbao
// builds it.
package source
