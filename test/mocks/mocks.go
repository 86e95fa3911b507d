// Package mocks holds generated mocks, for the few tests in which the call
// itself is what is asserted. Everywhere else tests use the real thing, or the
// fakes that are shipped with an interface.
package mocks

//go:generate go run github.com/golang/mock/mockgen@v1.6.0 -source=../../pkg/publish/publisher.go -destination=publisher.go -package=mocks -write_package_comment=false
//go:generate go run github.com/golang/mock/mockgen@v1.6.0 -source=../../pkg/publish/mounter.go -destination=mounter.go -package=mocks -write_package_comment=false
//go:generate go run github.com/golang/mock/mockgen@v1.6.0 -source=../../pkg/plugin/v1alpha1/service_grpc.pb.go -destination=v1alpha1.go -package=mocks -write_package_comment=false
