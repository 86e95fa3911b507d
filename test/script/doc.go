// Package script holds the three commands and the documentation to what they
// say. Scripts in testdata run the commands as a person would; the documents
// are read as a reader would: what they show as run is run, the classes that
// they show are parsed, and their tables of flags and errors are compared
// with the commands and the source.
package script
